"""What of a detector is explained: the score of one of its boxes, or the mask of one of its instances.

    relprop.explain(detector, x, target=Detection(0))                          # the best detection of each image
    relprop.explain(detector, x, target=Detection(box=(40, 60, 180, 220)))     # the one that overlaps this box most
    relprop.explain(detector, x, target=Detection(0, label=17))                # the best one of a class
    relprop.explain(detector, x, target=InstanceMask(0))                       # why these pixels are of the instance

The run is explained as it happened: which boxes it proposed, kept and suppressed are facts of that run, so boxes and
choices are constants, and relevance follows the score alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.targets.target import OutputTarget, Scale, mean_over
from relprop.errors import TargetError

#: detections of each image, with boxes (K, 4), scores (K,), perhaps labels (K,) and masks (K, 1, H, W)
Detections = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Detection(OutputTarget):
    """The score that a detector gives one of its boxes, whatever `start` says: relevance sums to it.

    Attributes:
        number: which detection of each image, in the order in which the model returns them; or one number each.
        box: (x1, y1, x2, y2) in pixels of the image, for all images or (N, 4): the detection that overlaps it most, by
            intersection over union. `number` takes no part then.
        label: among detections of this class alone; None for all.
        read: makes detections of what the model returns, a list with a dict for each image of "boxes" (K, 4), "scores"
            (K,) and "labels" (K,); by default it is that already, as of torchvision's detectors.
    """

    number: int | Sequence[int] = 0
    box: Any = None
    label: int | None = None
    read: Callable[[Any], Detections] | None = None

    def __post_init__(self) -> None:
        """(4,) is (1, 4), so that a batch of four images is not taken for it."""
        if self.box is None:
            return
        box = torch.as_tensor(self.box, dtype=torch.float64)
        if box.shape[-1:] != (4,) or box.dim() > 2:
            raise TargetError(f"a box is (x1, y1, x2, y2), one for all images or (N, 4), not {tuple(box.shape)}")
        object.__setattr__(self, "box", box.view(-1, 4))

    def pick(self, returned: Any) -> Tensor:
        """(N, 1) the score of the detection that is explained, out of all that the model returns.

        Raises:
            TargetError: there is no such detection.
        """
        found = self.detections(returned)
        return torch.stack([one["scores"][k] for one, k in zip(found, self.numbers(returned), strict=True)])[:, None]

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, 1) -> (N, 1)."""
        return output.clone()

    def detections(self, returned: Any) -> Detections:
        """The detections in what the model returned."""
        found: Any = self.read(returned) if self.read is not None else returned
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Mapping):
            found = found[1]  # (losses, detections), as TorchScript has it
        found = [found] if isinstance(found, Mapping) else found
        if not isinstance(found, list | tuple) or not all(
            isinstance(one, Mapping) and {"boxes", "scores"} <= {*one} for one in found
        ):
            raise TargetError(
                f"the model returned {type(returned).__name__}, which is no list of detections: a dict for each image "
                "with boxes (K, 4) and scores (K,). Say how to make them of it with read=FUNCTION"
            )
        return found

    def numbers(self, returned: Any) -> list[int]:
        """Which detection of each image is explained, of what the model returned."""
        found = self.detections(returned)
        return [self._number(one, image, len(found)) for image, one in enumerate(found)]

    def _number(self, found: Mapping[str, Tensor], image: int, images: int) -> int:
        count, where = len(found["scores"]), f"in image {image}" if images > 1 else "in the image"
        among: list[int] = [*range(count)]
        if self.label is not None:
            labels = found["labels"].tolist()
            among = [k for k in among if labels[k] == self.label]
        if not among:
            kind = "" if self.label is None else f" of class {self.label}"
            raise TargetError(
                f"nothing{kind} was detected {where} ({count} detections): there is nothing to explain. Detectors drop "
                "boxes that score below a threshold of theirs (torchvision: score_thresh, box_score_thresh)"
            )
        if self.box is None:
            wanted = self._own(self.number, image, images)
            if not isinstance(wanted, int) or not -len(among) <= wanted < len(among):
                raise TargetError(f"there is no detection {wanted} {where}: there are {len(among)}")
            return among[wanted]
        box = self._own(self.box.tolist() if len(self.box) > 1 else self.box[0].tolist(), image, images)
        boxes = found["boxes"].tolist()
        overlaps: list[float] = [overlap(boxes[k], box) for k in among]
        if max(overlaps) <= 0:
            near = min(among, key=lambda k: sum(abs(a - b) for a, b in zip(boxes[k], box, strict=True)))
            corners = ", ".join(f"{corner:.1f}" for corner in boxes[near])
            raise TargetError(f"no detection {where} overlaps the box {box}; nearest is {near}, ({corners})")
        return among[overlaps.index(max(overlaps))]

    def _own(self, given: Any, image: int, images: int) -> Any:
        """What is given for one image, of what is for all or has one for each."""
        nested = isinstance(given, Sequence) and (self.box is None or isinstance(given[0], Sequence))
        if nested and len(given) != images:
            raise TargetError(f"there are {len(given)} detections to explain for {images} image(s); give one for each")
        return given[image] if nested else given

    def __str__(self) -> str:
        kind = "" if self.label is None else f" of class {self.label}"
        if self.box is not None:
            corners = ", ".join(f"{corner:g}" for corner in self.box[0].tolist())
            return f"detection{kind} at {'its box' if len(self.box) > 1 else f'({corners})'}"
        return f"detection{kind} {self.number}" if isinstance(self.number, int) else f"a detection{kind}"


@dataclass(frozen=True, eq=False)
class InstanceMask(Detection):
    """The mask of one instance (Mask R-CNN): relevance sums to the mean probability of its pixels.

    Attributes:
        mask: bool (H, W), the pixels; None for those where the instance is likelier than not.
    """

    mask: Any = None

    def pick(self, returned: Any) -> Tensor:
        """(N, 1, H, W) the probability of each pixel to be of the instance."""
        found = self.detections(returned)
        if not all("masks" in one for one in found):
            raise TargetError(f"{self} needs a model that returns masks (K, 1, H, W), as Mask R-CNN does")
        return torch.stack([one["masks"][k] for one, k in zip(found, self.numbers(returned), strict=True)])

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, 1, H, W) -> the same shape."""
        chosen = output > 0.5 if self.mask is None else self._pixels(output)
        why = "no pixel is likelier of the instance than not" if self.mask is None else "the mask is empty"
        return mean_over(output, chosen, why)

    def _pixels(self, output: Tensor) -> Tensor:
        mask = torch.as_tensor(self.mask, device=output.device)
        if mask.dtype != torch.bool or mask.shape != output.shape[2:]:
            raise TargetError(f"the mask must be bool of shape {tuple(output.shape[2:])}, not {tuple(mask.shape)}")
        return mask.expand(output.shape)

    def __str__(self) -> str:
        return f"mask of {super().__str__()}"


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 1 of a box with itself, though it be without area."""
    if [*one] == [*other]:
        return 1.0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared > 0 else 0.0
