"""Seeds and random numbers: of several values, and of a sample whatever batch it comes in and whatever its device."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio: Knuth's multiplicative hash, as a signed 64-bit number


def mix(*parts: object) -> int:
    """Make one well-spread 63-bit seed of several numbers or texts; another order is another seed."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """Make a generator on the CPU, seeded by `mix(*parts)`."""
    return torch.Generator().manual_seed(mix(*parts))


def fingerprint(x: Tensor, seed: int = 0) -> Tensor:
    """Give a number that stands for the content of each sample, and for `seed`: (N, ...) -> (N,) int64.

    Integer arithmetic modulo 2^64 over the bits of the float32 values, so it is equal on every device.
    """
    bits = x.detach().to(torch.float32).contiguous().view(torch.int32).reshape(len(x), -1).to(torch.int64)
    position = torch.arange(1, bits.shape[1] + 1, device=x.device, dtype=torch.int64)
    spread = (position * _ODD) ^ (position * _ODD).bitwise_right_shift(29)
    start = (seed * _ODD + (1 << 63)) % (1 << 64) - (1 << 63)  # as a signed 64-bit number
    return _mixed((bits * (2 * spread + 1)).sum(1) + start)


def _mixed(value: Tensor) -> Tensor:
    """Let every bit reach every other (the finaliser of SplitMix64, shifts as they come)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        value = (value ^ value.bitwise_right_shift(shift)) * factor
    return value ^ value.bitwise_right_shift(31)


def generators(keys: Tensor) -> list[torch.Generator]:
    """One generator on the CPU for each key (N,), so that draws are equal on every device."""
    return [torch.Generator().manual_seed(key) for key in keys.tolist()]
