"""A file that cannot be used costs one sentence that names it and says what to do."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relprop.errors import InputError
from relprop.images import MAX_PIXELS, find_images, read_image


def message(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_missing_file(tmp_path):
    assert message(read_image, tmp_path / "cat.jpg") == f"there is no file '{tmp_path / 'cat.jpg'}'"


def test_folder(tmp_path):
    assert (
        message(read_image, tmp_path) == f"{tmp_path} is a folder, not a picture; find_images lists the pictures in it"
    )


def test_zero_size_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert (
        message(read_image, tmp_path / "a.jpg") == f"{tmp_path / 'a.jpg'} is empty (0 bytes); copy or download it again"
    )


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\0" * 100, b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_not_a_picture(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert message(read_image, path).startswith(
        f"{path} is not a picture that can be read; known formats are JPEG, PNG"
    )


@pytest.mark.parametrize(
    ("suffix", "kept"), [(suffix, kept) for suffix in ("jpg", "png", "webp") for kept in (0.3, 0.8)]
)
def test_truncated_file(noise, tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    noise(64, 64).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    told = message(read_image, path)
    assert told.startswith(f"{path} is damaged or truncated (")
    assert told.endswith("copy or download it again")


def test_damaged_bytes_never_end_in_another_error(noise, tmp_path):
    """Flip bytes all over: each file is read, or refused in a sentence; nothing else is raised."""
    rng = np.random.default_rng(0)
    refused = 0
    for suffix in ("jpg", "png", "webp", "gif", "tiff", "bmp"):
        path = tmp_path / f"a.{suffix}"
        noise(24, 24).save(path)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(20):
            content = whole.copy()
            content[rng.integers(0, len(content), 12)] = rng.integers(0, 256, 12)
            try:
                read_image(content.tobytes())
            except InputError:
                refused += 1
            except UserWarning:
                pass  # Pillow warns of odd TIFF tags, and the test suite makes that an error
    assert refused > 20


@pytest.mark.parametrize("size", [(8001, 8000), (60_000, 60_000)])
def test_decompression_bomb_is_refused_before_it_is_unpacked(size):
    told = message(read_image, png_of(*size))
    assert told.startswith("the picture has ")
    assert "over 64 million pixels, which is the limit" in told


def test_the_limit_is_what_it_says():
    assert MAX_PIXELS == 8000 * 8000
    assert "truncated" in message(read_image, png_of(8000, 8000))  # taken up, and found to be cut short


def test_formats_that_start_outside_programs_are_refused(noise, tmp_path):
    """Pillow hands EPS to Ghostscript."""
    noise(8, 8).save(tmp_path / "a.eps")
    with Image.open(tmp_path / "a.eps") as image:
        assert image.format == "EPS"
    assert "is not a picture that can be read; known formats are" in message(read_image, tmp_path / "a.eps")


@pytest.mark.parametrize("head", [b"P5\n2 2\n65535\n", b"P5\n2 2\n1023\n", b"P2\n2 2\n65535\n", b"P6\n2 2\n65535\n"])
def test_netpbm_of_16_bits_is_read(head):
    """The upper 8 of 16 bits; of 10 bits, the same share of the largest."""
    largest = int(head.split()[3])
    values = [0, largest // 4, largest // 2, largest]
    if head[:2] == b"P2":
        content = " ".join(map(str, values)).encode()
    else:
        content = np.repeat(values, 3 if head[:2] == b"P6" else 1).astype(">u2").tobytes()
    pixels = np.asarray(read_image(head + content))
    assert pixels.shape == (2, 2, 3)
    assert np.abs(pixels[..., 0].ravel() - np.array([0, 63.75, 127.5, 255])).max() <= 1


@pytest.mark.parametrize(("mode", "what"), [("F", "floating-point"), ("I", "32-bit")])
def test_samples_without_a_stated_range_are_refused(tmp_path, mode, what):
    path = tmp_path / "a.tiff"
    Image.new(mode, (3, 3), 1).save(path)
    assert message(read_image, path).startswith(f"{path} has {what} samples, whose black and white nobody states")


def test_find_images_lists_a_folder_in_order(folder):
    assert [path.name for path in find_images(folder)] == ["a.JPG", "b.png", "c.webp"]


def test_find_images_looks_into_subfolders_when_told(folder):
    assert [str(path.relative_to(folder)) for path in find_images(folder, recursive=True)] == [
        "a.JPG", "b.png", "c.webp", "sub/d.png",
    ]  # fmt: skip


def test_find_images_keeps_the_given_order_and_lists_nothing_twice(folder):
    found = find_images([folder / "c.webp", folder, str(folder / "sub" / ".." / "b.png"), folder / "sub"])
    assert [path.name for path in found] == ["c.webp", "a.JPG", "b.png", "d.png"]


def test_find_images_takes_a_named_file_whatever_its_suffix(folder):
    assert find_images(folder / "notes.txt") == [folder / "notes.txt"]  # reading it says what is wrong


def test_find_images_does_not_run_in_circles(folder):
    (folder / "sub" / "loop").symlink_to(folder)
    assert len(find_images(folder, recursive=True)) == 4


def test_find_images_misses_a_path():
    told = message(find_images, "nowhere/cat.jpg")
    assert told == "there is no file or folder 'nowhere/cat.jpg'; give pictures, or folders that hold pictures"


def test_find_images_says_what_an_empty_folder_lacks(tmp_path: Path):
    assert f"the folder '{tmp_path}' holds no picture (looked for .bmp, .gif, .jpeg" in message(find_images, tmp_path)
    (tmp_path / "sub").mkdir()
    assert message(find_images, tmp_path).endswith("it has 1 folders: name them, or search recursively")
