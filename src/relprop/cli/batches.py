"""Find, read and explain images in batches; a bad file costs that file alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from relprop.cli import console, options
from relprop.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from relprop import LRP, Relevance
    from relprop.core.targets.start import Start, Target
    from relprop.models import LoadedModel


@dataclass(frozen=True)
class Item:
    """One image to explain."""

    name: str  # unique, for its files
    source: Path | None  # where it comes from; None for the bundled photograph
    target: int | None = None  # class that was asked for, and `against`, the one that it is set against in a contrast
    against: int | None = None
    picture: Any = None  # the photograph; once read, the part of it that the network sees
    size: tuple[int, int] = (0, 0)  # (width, height) of the whole photograph, once read
    x: Tensor | None = None  # the network's input (C, H, W), once read


@dataclass
class Job:
    """What to explain, with what; `failures` fills with (image, sentence) while it runs."""

    loaded: LoadedModel
    lrp: LRP
    items: list[Item]
    batch_size: int
    device: str
    start: Start = "probability"
    failures: list[tuple[str, str]] = field(default_factory=list)

    def results(self) -> Iterator[tuple[list[Item], Relevance]]:
        """Explain batch by batch, with a progress bar; yields the items that could be, and their result."""
        done = 0
        with console.progress("explaining", len(self.items)) as advance:
            for start in range(0, len(self.items), self.batch_size):
                chunk = self.items[start : start + self.batch_size]
                for ready, result in self._explain([item for item in map(self._read, chunk) if item is not None]):
                    done += len(ready)
                    yield ready, result
                advance(len(chunk))
        self.require(done)

    def fail(self, item: Item, why: str) -> None:
        """Note that an image could not be explained."""
        self.failures.append((item.name if item.source is None else str(item.source), why))

    def require(self, done: int) -> None:
        """Raise if not one image could be explained."""
        if done:
            return
        where, why = self.failures[0]
        more = f" (and {len(self.failures) - 1} more; not one image could be explained)" * (len(self.failures) > 1)
        raise InputError((why if where in why else f"{where}: {why}") + more)

    def failed(self) -> list[dict[str, str]]:
        """Return the failures as JSON knows them."""
        return [{"image": image, "error": error} for image, error in self.failures]

    def report(self) -> None:
        """List the failures on standard error."""
        for image, error in self.failures:
            console.warn(error if image in error else f"{image}: {error}")
        if self.failures:
            console.warn(f"{len(self.failures)} of {len(self.items)} images could not be explained")

    def _read(self, item: Item) -> Item | None:
        """Read and crop the picture as the network sees it, or note the failure."""
        from relprop.images import read_image

        try:
            picture = item.picture if item.source is None else read_image(item.source)
            prepare = self.loaded.preprocess
            return replace(item, picture=prepare.crop(picture), size=picture.size, x=prepare(picture))
        except (InputError, DataError, OSError) as error:
            self.fail(item, str(error))
            return None

    def _explain(self, items: list[Item]) -> Iterator[tuple[list[Item], Relevance]]:
        """Explain one batch; if an image in it cannot be, the others one by one."""
        if not items:
            return
        import torch

        from relprop.core.targets import Contrast

        first = items[0]  # all items of a job ask for the same kind of thing
        given = [item.target for item in items if item.target is not None]
        wanted: Target = given or None
        if first.target is not None and first.against is not None:
            wanted = Contrast(first.target, first.against)
        try:
            x = torch.stack([item.x for item in items if item.x is not None]).to(self.device)
            yield items, self.lrp(x, target=wanted, start=self.start)
        except InputError as error:
            if len(items) == 1:
                self.fail(items[0], str(error))
            else:
                for item in items:
                    yield from self._explain([item])


def split(result: Relevance) -> list[Relevance]:
    """Take a batch's result apart: one result of one sample each, with its own part of the ledger."""
    return [result.slice(slice(at, at + 1)) for at in range(len(result.target))]


def find_items(images: list[Path] | None, *, recursive: bool = False) -> list[Item]:
    """List the images that were asked for, each with a name of its own; the bundled photograph if none."""
    if images:
        from relprop.images import find_images

        found = [Item(path.stem, path) for path in find_images(images, recursive=recursive)]
    else:
        from relprop import demo

        found = [Item(demo.NAME, None, picture=demo.photograph())]
    names = _distinct([item.name for item in found])
    return [replace(item, name=name) for item, name in zip(found, names, strict=True)]


def load_for(
    items: list[Item],
    target: list[str] | None,
    network: options.Network,
    model: str | None,
    classes: Path | None,
    *,
    contrast: str | None = None,
) -> tuple[LoadedModel, list[Item]]:
    """Load the model, and say what to explain of each image; what can be refused is refused before that takes time."""
    options.require_targets(target, len(items))
    options.require_indices([*(target or []), *([contrast] if contrast else [])], options.known_outputs(model))
    loaded = network.load(model, classes)
    return loaded, aim(items, target, loaded, contrast)


def aim(items: list[Item], target: list[str] | None, loaded: LoadedModel, contrast: str | None = None) -> list[Item]:
    """Say what to explain of each image; one that several classes were asked of stands once for each."""
    if not target and contrast is None:
        return items
    outputs = len(loaded.classes) if loaded.classes else loaded.outputs()
    if (pair := options.contrast(contrast, loaded.classes, outputs)) is not None:
        return [replace(item, target=pair[0], against=pair[1]) for item in items]
    wanted = options.targets(target, len(items), loaded.classes, outputs) or []
    found = [
        (item, replace(item, target=index, name=item.name if len(classes) == 1 else f"{item.name}-{index}"))
        for item, classes in zip(items, wanted, strict=True)
        for index in classes
    ]
    names = _distinct([made.name for _, made in found])
    return [replace(made, name=name) for (_, made), name in zip(found, names, strict=True)]


def _distinct(names: list[str]) -> list[str]:
    """Give repeated names a number: bird, bird-2, bird-3, also where one of these is itself a name."""
    taken, seen = set(names), Counter[str]()
    made: list[str] = []
    for name in names:
        seen[name] += 1
        fresh = name
        while seen[name] > 1 and fresh in taken:
            fresh = f"{name}-{seen[name]}"
            seen[name] += fresh in taken
        taken.add(fresh)
        made.append(fresh)
    return made
