"""Memory: whether an error says that it is short, and giving back what was freed."""

from __future__ import annotations

import ctypes
import sys

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the computer, ran out of memory; on CPUs torch has no error of its own for that."""
    cause = error.__cause__ is not None and is_out_of_memory(error.__cause__)
    said = any(words in str(error) for words in ("can't allocate memory", "not enough memory"))
    return cause or isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and said)


def give_back() -> None:
    """Return freed memory to the system, where the C library is one that keeps it for itself (glibc).

    Blocks of one input's activations seldom fit those of another size, so a process that sees many sizes would grow.
    It takes milliseconds, but the next run has to ask for memory anew: for now and then, not for each run.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
