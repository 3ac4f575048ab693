"""Find picture files, and read them as upright RGB, whatever they hold."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from relprop.documents import require_regular
from relprop.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # others, EPS for one, start outside programs
MAX_PIXELS = 64_000_000
"""Pictures of more pixels than this are refused: a file of a few kilobytes can claim gigabytes."""


def find_images(paths: str | Path | Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """List the pictures that `paths` name: files as they are, folders by the suffixes of their files.

    In the order given, sorted by name within a folder; a file that is named twice is listed once. Hidden files and
    folders are left out. `recursive` looks into subfolders too.

    Raises:
        InputError: a path that does not exist, or a folder without pictures.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    found: dict[str, Path] = {}
    for path in given:
        for file in _expand(Path(path), recursive):
            found.setdefault(os.path.realpath(file), file)  # which takes a link to itself as it is
    return list(found.values())


def _expand(path: Path, recursive: bool) -> list[Path]:
    if not path.is_dir():
        if not os.path.lexists(path):
            raise InputError(f"there is no file or folder {str(path)!r}; give pictures, or folders that hold pictures")
        return [path]
    # broken links and pipes are listed: whoever reads them says what is wrong with them, and goes on with the others
    files = _walk(path) if recursive else [entry for entry in path.iterdir() if not entry.is_dir()]
    pictures = sorted(f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if pictures:
        return pictures
    inside = sum(entry.is_dir() for entry in path.iterdir())
    hint = f"; it has {inside} folders: name them, or search recursively" if inside and not recursive else ""
    raise InputError(f"the folder {str(path)!r} holds no picture (looked for {', '.join(sorted(SUFFIXES))}){hint}")


def _walk(root: Path) -> list[Path]:
    """All files below `root`; links to folders are not followed, so that no circle has no end."""
    found: list[Path] = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(folder, name) for name in files]
    return found


def read_image(source: str | Path | bytes) -> Image.Image:
    """Read a picture as upright RGB, 8 bits a channel.

    The EXIF orientation is applied, then: greyscale and palettes become RGB; what is transparent is laid over white; of
    16 bits the upper 8 are kept, nothing is stretched; CMYK is converted without a colour profile; of an animation the
    first frame is taken.

    Args:
        source: a file's path, or its content.

    Raises:
        InputError: no such file, an empty, truncated or damaged one, not a picture, or one of over `MAX_PIXELS`.
    """
    return _read(source, _to_rgb)


def read_mask(source: str | Path | bytes) -> Image.Image:
    """Read a mask, as programs for segmentation write them: what is not 0 belongs to the region.

    Labels of palettes and of 16 bits are taken as numbers, of colours any channel counts, and what is transparent does
    not belong to it.

    Returns:
        Grey (mode L), 255 inside and 0 outside.

    Raises:
        InputError: as `read_image`; a mask without a pixel that is not 0.
    """
    return _read(source, _to_mask)


def _read(source: str | Path | bytes, convert: Callable[[Image.Image, str | None], Image.Image]) -> Image.Image:
    name = "the picture" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else read_file(Path(source))
    if not content:
        raise InputError(f"{name} is empty (0 bytes); copy or download it again")
    try:
        return _decode(content, convert)
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise InputError(f"{name} is not a picture that can be read; known formats are {kinds}") from None
    except Exception as error:  # on damaged bytes the decoders raise nearly anything
        raise InputError(f"{name} is damaged or truncated ({error}); copy or download it again") from None


def read_file(path: Path) -> bytes:
    """Read a file that somebody else named, whatever it holds.

    Raises:
        InputError: there is no such file, it is no regular one, or it cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a picture; find_images lists the pictures in it")
    require_regular(path, InputError)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _decode(content: bytes, convert: Callable[[Image.Image, str | None], Image.Image]) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns of large pictures; ours is the stricter limit, and it is an error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError:
            raise InputError(f"has over {_too_large()}") from None
    if not image.width * image.height:
        raise InputError(f"has no pixels ({image.width} x {image.height}); nothing can be explained")
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"has {image.width} x {image.height} pixels, over {_too_large()}")
    image.load()
    return convert(ImageOps.exif_transpose(image), image.format)


def _too_large() -> str:
    return f"{MAX_PIXELS / 1e6:g} million pixels, which is the limit; make it smaller (the network sees far fewer)"


def _to_mask(image: Image.Image, kind: str | None) -> Image.Image:
    values = np.asarray(image)
    inside = values != 0
    if image.mode in ("LA", "PA", "RGBA"):
        inside = inside[..., :-1].any(-1) & inside[..., -1]
    elif inside.ndim == 3:
        inside = inside.any(-1)
    if not inside.any():
        raise InputError("is 0 everywhere, so it marks nothing; a mask is not 0 where the region is")
    return Image.fromarray(255 * inside.astype(np.uint8))


def _to_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    # Pillow reads greyscale PNG and PGM of 16 bits as 32-bit numbers, scaled to 65535
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(
            f"has {'floating-point' if image.mode == 'F' else '32-bit'} samples, whose black and white nobody "
            "states; convert it to 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
