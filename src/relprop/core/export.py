"""`torch.export`, tried for any batch size first, and its programs made functional."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from relprop.core.outputs import Scores
from relprop.errors import CaptureError


class NotExportedError(CaptureError):
    """`torch.export` cannot read the model; another way may."""


def export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Export a model's scores, for any batch size if that can be.

    Raises:
        NotExportedError: torch.export cannot read it, and says why.
        CaptureError: it does not return scores.
    """
    try:
        return export_by(Scores(model), attempts(example, any_batch=True), model)
    except CaptureError:
        raise
    except Exception as error:  # export raises errors of many unrelated types
        raise NotExportedError(reason(error)) from error


def attempts(example: Tensor, any_batch: bool) -> list[tuple[Tensor, Any]]:
    """What to export with, best first. A batch of one would be taken for a constant, so show two."""
    pair = example[:1].expand(2, *example.shape[1:]).contiguous()
    fixed = (example.contiguous(), None)
    return [(pair, ({0: torch.export.Dim("batch")},)), fixed] if any_batch else [fixed]


def export_by(module: nn.Module, tries: list[tuple[Tensor, Any]], model: nn.Module) -> torch.export.ExportedProgram:
    """Export by the first attempt that succeeds; raises what the first one raised."""
    inference = any(parameter.is_inference() for parameter in model.parameters())
    failure: Exception | None = None
    for inputs, shapes in tries:
        try:
            with _quiet(), torch.inference_mode(inference), torch.no_grad():
                return functional(torch.export.export(module, (inputs,), dynamic_shapes=shapes, strict=False))
        except CaptureError:
            raise
        except Exception as error:  # export raises errors of many unrelated types
            failure = failure or error
    assert failure is not None
    raise failure


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().split("\n", 1)[0][:300].rstrip(".") or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings, and the programs that it prints where an export fails: we raise the reason."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program without in-place operations and writes through views."""
    with _quiet():
        rewritten: torch.export.ExportedProgram = program.run_decompositions({})
        return rewritten
