"""How much a client may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the app; a client that reaches one gets a message that names it.

    Attributes:
        file_bytes: size of an uploaded file.
        pixels: of an uploaded image, once decoded.
        images: uploads that are kept; the oldest are deleted first.
        jobs: results that are kept; likewise.
        queue: explanations that wait. One is computed at a time.
        uploads: files received at the same time.
        decoders: files decoded at the same time.
        receive_seconds: in which the header of a request has to arrive, and then its body.
        unasked_seconds: after which a job that no client asks for is cancelled.
    """

    file_bytes: int = 12_000_000
    pixels: int = 25_000_000
    images: int = 24
    jobs: int = 32
    queue: int = 16
    uploads: int = 16
    decoders: int = 2
    receive_seconds: int = 10
    unasked_seconds: float = 10.0
