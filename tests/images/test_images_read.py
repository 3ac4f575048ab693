"""Every kind of file gives the pixels that were put into it."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relprop.errors import InputError
from relprop.images import read_image, read_mask


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.ppm", "a.tiff"])
def test_lossless_formats_keep_every_pixel(noise, tmp_path, name):
    picture = noise(7, 5)
    options = {"lossless": True} if name.endswith("webp") else {}
    read = read_image(saved(picture, tmp_path / name, **options))
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(picture))


def test_jpeg_keeps_a_plain_colour(tmp_path):
    path = saved(Image.new("RGB", (16, 16), (200, 100, 50)), tmp_path / "a.jpg", quality=95)
    assert np.abs(np.subtract(pixel(read_image(path)), (200, 100, 50))).max() <= 2


def test_bytes_are_read_like_their_file(noise, tmp_path):
    path = saved(noise(6, 6), tmp_path / "a.png")
    assert read_image(path.read_bytes()).tobytes() == read_image(str(path)).tobytes()


def test_greyscale_becomes_three_equal_channels(tmp_path):
    read = read_image(saved(Image.new("L", (3, 3), 77), tmp_path / "a.png"))
    assert pixel(read) == (77, 77, 77)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 0), (256, 1), (0x8000, 128), (0xFFFF, 255)])
def test_of_16_bits_the_upper_8_are_kept(tmp_path, value, expected):
    grey = Image.fromarray(np.full((3, 3), value, dtype=np.uint16))
    assert pixel(read_image(saved(grey, tmp_path / "a.png"))) == (expected,) * 3


def test_palette_colours_are_looked_up(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    read = read_image(saved(image, tmp_path / "a.png"))
    assert (pixel(read, 0), pixel(read, 1)) == ((10, 20, 30), (200, 100, 50))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 255), (0, 0, 0)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # a fifth of red over white
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
def test_what_is_transparent_is_laid_over_white(tmp_path, mode, colour, expected):
    assert pixel(read_image(saved(Image.new(mode, (2, 2), colour), tmp_path / "a.png"))) == expected


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    read = read_image(saved(image, tmp_path / "a.png", transparency=0))
    assert (pixel(read, 0), pixel(read, 1)) == ((255, 255, 255), (200, 100, 50))


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (2, (1, 0)), (3, (1, 2)), (4, (0, 2)), (6, (2, 0)), (8, (0, 1))]
)
def test_exif_orientation_is_applied(tmp_path, orientation, corner):
    """The white pixel stored at the upper left ends where a viewer shows it (3 rows of 2 pixels are stored)."""
    image = Image.new("RGB", (2, 3))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_image(saved(image, tmp_path / "a.png", exif=exif))
    assert read.size == ((2, 3) if orientation < 5 else (3, 2))
    assert np.argwhere(np.asarray(read)[..., 0] == 255).tolist() == [[corner[1], corner[0]]]


def test_cmyk_is_converted(tmp_path):
    read = read_image(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95))
    assert np.abs(np.subtract(pixel(read), (255, 0, 0))).max() <= 3


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert pixel(read_image(path)) == (255, 0, 0)


def test_threads_read_side_by_side(noise, tmp_path):
    path = saved(noise(40, 30), tmp_path / "a.png")
    found: list[bytes] = []
    workers = [threading.Thread(target=lambda: found.append(read_image(path).tobytes())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [noise(40, 30).tobytes()] * 8


def test_it_reads_what_the_bytes_say_whatever_the_name_says(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (3, 3), (1, 2, 3)).save(content, "PNG")
    path = tmp_path / "a.jpg"
    path.write_bytes(content.getvalue())
    assert pixel(read_image(path)) == (1, 2, 3)


@pytest.mark.parametrize("kind", ["1", "L", "I;16", "P", "RGB", "RGBA", "LA"])
def test_a_mask_is_what_is_not_zero(kind, tmp_path):
    inside = np.zeros((4, 6), dtype=np.uint8)
    inside[1:3, 2:5] = 1
    image = {
        "1": lambda: Image.fromarray(255 * inside).convert("1"),
        "I;16": lambda: Image.fromarray(inside.astype(np.uint16)),  # label 1 of 65535
        "RGB": lambda: Image.fromarray(np.stack([0 * inside, 0 * inside, 3 * inside], -1)),
        "RGBA": lambda: Image.fromarray(np.stack([inside + 7, inside, inside, 200 * inside], -1), "RGBA"),
        "LA": lambda: Image.fromarray(np.stack([inside + 7, 200 * inside], -1), "LA"),
        "L": lambda: Image.fromarray(2 * inside),
        "P": lambda: palette(inside),
    }[kind]()
    image.save(tmp_path / "mask.png")
    assert (np.asarray(read_mask(tmp_path / "mask.png")) == 255 * inside).all()


def palette(inside: np.ndarray) -> Image.Image:
    """Labels in a palette whose colour 0 is white and whose colour 1 is black."""
    image = Image.fromarray(inside).convert("L")
    made = Image.frombytes("P", image.size, image.tobytes())
    made.putpalette([255, 255, 255, 0, 0, 0])
    return made


def test_an_empty_mask_is_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask.png is 0 everywhere, so it marks nothing"):
        read_mask(tmp_path / "mask.png")
