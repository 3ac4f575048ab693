"""Whether an error says that memory is short."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the computer, ran out of memory; on CPUs torch has no error of its own for that."""
    cause = error.__cause__ is not None and is_out_of_memory(error.__cause__)
    return cause or isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
