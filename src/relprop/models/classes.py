"""Names of classes, from a list, a file, an image folder or a checkpoint, and the index of a class by its name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relprop.documents import require_regular
from relprop.errors import ModelError, TargetError, UsageError

Names = Sequence[str] | Mapping[str, int] | str | Path
"""Names in the order of the outputs, `class_to_idx` of an ImageFolder, or the path of a file or folder with them."""

IN_CHECKPOINTS = ("classes", "class_names", "class_to_idx")
HOW = "give an index, or the names: --classes FILE with one a line, or load_model(..., classes=[...])"


def read_classes(given: Names) -> tuple[str, ...]:
    """Read the names of the classes, in the order of the network's outputs.

    Args:
        given: names; a mapping of names to indices, as ImageFolder's `class_to_idx`; or a path: a text file with one
            name a line, a JSON file with a list or a mapping, or a folder with a subfolder a class, whose sorted names
            torchvision's ImageFolder takes as the classes.

    Raises:
        UsageError: no such file, or one that holds no such names.
    """
    if isinstance(given, str | Path):
        return _from_path(Path(given))
    return _in_order(given, "classes")


def classes_in(content: Any) -> tuple[str, ...] | None:
    """Names that a training script saved beside the weights, under one of `IN_CHECKPOINTS`; None if there are none."""
    if not isinstance(content, Mapping):
        return None
    for key in IN_CHECKPOINTS:
        try:
            return _in_order(content[key], key)
        except (KeyError, UsageError):  # not there, or something else of that name
            continue
    return None


def require_count(path: Any, names: Sequence[str], outputs: int | None) -> None:
    """Raise unless there is a name for each output, where their number is known.

    Raises:
        ModelError: more names or fewer.
    """
    if outputs is not None and len(names) != outputs:
        raise ModelError(
            f"{path}: {len(names)} class names were given, but the network has {outputs} outputs; give one for each, "
            "in the order of the outputs"
        )


def class_index(text: str, classes: Sequence[str] | None) -> int:
    """Index of a class given by index or by name, in any case; of "tabby, tabby cat" each part is a name too.

    Raises:
        TargetError: no class is called so, or several are.
    """
    if text.strip().lstrip("+-").isdigit():
        return int(text)
    if not classes:
        raise TargetError(f"the model brings no class names, so {text!r} cannot be found; {HOW}")
    wanted = text.strip().lower()
    whole = [index for index, name in enumerate(classes) if name.strip().lower() == wanted]
    names = [[part.strip().lower() for part in name.split(",")] for name in classes]
    found = whole or [index for index, parts in enumerate(names) if wanted in parts]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(f"classes {', '.join(map(str, found))} are all called {text!r}; give an index")
    near = difflib.get_close_matches(wanted, [part for parts in names for part in parts], n=3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise TargetError(f"none of the {len(classes)} classes is called {text!r}{hint}")


def _from_path(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        return _some(sorted(entry.name for entry in path.iterdir() if entry.is_dir()), path, "holds no subfolder")
    require_regular(path, UsageError)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"the class names cannot be read from {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the class names cannot be read from {str(path)!r}: it is no text in UTF-8") from None
    if path.suffix.lower() != ".json":
        lines = [line.strip() for line in text.splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        return _some(lines, path, "is empty")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    return _in_order(found, str(path))


def _in_order(given: Any, where: str) -> tuple[str, ...]:
    """Names of a list, or of a mapping of names to indices (or of indices to names)."""
    if isinstance(given, Mapping):
        pairs = (
            dict(given) if all(isinstance(value, int) for value in given.values()) else {v: k for k, v in given.items()}
        )
        try:
            by_index = {int(index): name for name, index in pairs.items()}
        except (TypeError, ValueError):
            by_index = {}
        if sorted(by_index) != list(range(len(given))):
            raise UsageError(f"{where} must map each name to an index, 0 to {max(len(given) - 1, 0)}, each once")
        given = [by_index[index] for index in range(len(by_index))]
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise UsageError(f"{where} must be a list of names, one for each output, or map names to indices")
    return _some(given, where, "names no class")


def _some(names: Sequence[str], where: Any, empty: str) -> tuple[str, ...]:
    if not names:
        raise UsageError(f"{where} {empty}; give one name for each output of the network")
    if blank := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise UsageError(f"{where}: name {blank[0]} of {len(names)} is empty; give one name for each output")
    return tuple(names)
