"""What the pictures show, pixel by pixel and word by word."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from relprop.errors import InputError
from relprop.viz import blend, grid, overlay, save, save_overlay, scale_of, show, side_by_side

GREY = 0.03 + 0.55 * 0.5


def photograph(height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), 0.5)


def peak(height: int = 8, width: int = 8) -> np.ndarray:
    heatmap = np.zeros((height, width))
    heatmap[2, 3] = 1.0
    return heatmap


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def test_zero_relevance_leaves_the_darkened_grey_photograph():
    rgb = blend(photograph(), peak())
    assert rgb[0, 0] == pytest.approx([GREY] * 3)
    assert rgb[2, 3].max() > 0.9


def test_a_coloured_photograph_turns_grey():
    red = np.zeros((2, 2, 3))
    red[..., 0] = 1.0
    assert blend(red, np.zeros((2, 2)))[0, 0] == pytest.approx([0.03 + 0.55 * 0.2126] * 3)


@pytest.mark.parametrize(
    "image",
    [
        photograph(),
        torch.full((3, 8, 8), 0.5),
        np.full((8, 8), 0.5),
        torch.full((1, 8, 8), 0.5),
    ],
)
def test_every_kind_of_picture_gives_the_same_overlay(image):
    assert blend(image, peak()) == pytest.approx(blend(photograph(), peak()))


def test_bytes_and_pil_pictures_agree():
    array = np.full((8, 8, 3), 128, dtype=np.uint8)
    assert blend(Image.fromarray(array), peak()) == pytest.approx(blend(array, peak()))
    assert blend(Image.fromarray(array).convert("L"), peak()) == pytest.approx(blend(array, peak()))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.full((8, 8, 3), 2.0), "not within \\[0, 1\\]"),
        (np.full((8, 8, 3), np.nan), "not within \\[0, 1\\]"),
        (np.full((4, 4, 3), 0.5), "the picture is 4 x 4 and the heatmap 8 x 8"),
        (np.full((8, 8, 5), 0.5), "three colour channels or one"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(image, sentence):
    with pytest.raises(InputError, match=sentence):
        blend(image, peak())


def test_overlay_draws_on_the_given_axes_and_prints_its_range():
    figure = Figure()
    ax = figure.add_subplot()
    heatmap = np.linspace(-2, 1, 64).reshape(8, 8)
    assert overlay(photograph(), heatmap, ax, percentile=None, title="a bird") is ax
    words = texts(figure)
    assert "colours span -2 to 2;\ndata from -2 to 1" in words
    assert "relevance per pixel" in words
    assert "a bird" in words


def test_the_colour_bar_ends_where_the_colours_end():
    ax = overlay(photograph(), np.linspace(0, 0.5, 64).reshape(8, 8), score=0.5, percentile=None)
    bar = ax.figure.axes[1]
    assert bar.get_ylim() == (0, 100)  # the largest pixel holds the whole score: 100 %
    assert bar.get_ylabel() == "share of the score per pixel, %"
    signed = overlay(photograph(), np.linspace(-2, 1, 64).reshape(8, 8), percentile=None).figure.axes[1]
    assert signed.get_ylim() == (-2, 2)


def test_filled_levels_have_one_block_and_one_label_each():
    heatmap = np.repeat([[0.0, 0.25, 0.5, 1.0]], 4, axis=0)
    figure = overlay(photograph(4, 4), heatmap, levels=True).figure
    figure.draw_without_rendering()
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == ["0", "0.25", "0.5", "1"]


def test_side_by_side_shows_the_photograph_left_and_the_overlay_right():
    photo = photograph()
    photo[...] = [0.2, 0.6, 0.4]
    figure = side_by_side(photo, peak(), title="bird  91.2 %", subtitle="sum 0.912", score=0.912)
    shown = pixels(figure)
    middle = shown.shape[0] // 2 + 60
    left, right = shown[middle, shown.shape[1] // 4], shown[middle, int(shown.shape[1] * 0.7)]
    assert left == pytest.approx([0.2, 0.6, 0.4], abs=0.005)
    grey = 0.03 + 0.55 * (0.2 * 0.2126 + 0.6 * 0.7152 + 0.4 * 0.0722)
    assert right == pytest.approx([grey] * 3, abs=0.005)
    words = texts(figure)
    assert {"bird  91.2 %", "sum 0.912", scale_of(peak(), score=0.912).note} <= set(words)


def test_wide_pictures_keep_their_proportions():
    figure = side_by_side(photograph(8, 16), peak(8, 16))
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(2 * box.height, rel=1e-3)


def test_save_overlay_keeps_the_raw_floats(tmp_path):
    heatmap = torch.linspace(-1e-7, 3e-4, 64).reshape(8, 8)
    drawn, raw = save_overlay(tmp_path / "deep" / "bird.png", photograph(), heatmap)
    assert torch.equal(torch.from_numpy(np.load(raw)), heatmap)
    with Image.open(drawn) as picture:
        assert picture.format == "PNG"
    assert sorted(p.name for p in drawn.parent.iterdir()) == ["bird.npy", "bird.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path):
    target = tmp_path / "bird.nope"
    target.write_text("old")
    with pytest.raises(ValueError, match="nope"):
        save(Figure(), target)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bird.nope"]


def test_grid_prints_each_range_and_name():
    figure = grid(
        [photograph()] * 2, {"LRP": [peak(), 2 * peak()], "zero": [0 * peak()] * 2}, rows="ab", percentile=None
    )
    words = texts(figure)
    assert {"original", "LRP", "zero", "a", "b", "0 to 1", "0 to 2", "zero at every pixel"} <= set(words)
    with pytest.raises(InputError, match="column 'LRP' has 1 maps for 2 images"):
        grid([photograph()] * 2, {"LRP": [peak()]})


def result_of(heatmap: torch.Tensor, score: list[float], target: list[int]) -> SimpleNamespace:
    return SimpleNamespace(
        heatmap=heatmap,
        score=torch.tensor(score),
        what="",
        target=torch.tensor(target),
        quantized=lambda levels: (heatmap * levels).floor() / levels,
    )


def test_show_picks_a_sample_and_names_its_class():
    result = result_of(torch.stack([torch.zeros(4, 4), torch.eye(4) / 4]), [0.5, 0.25], [7, 9])
    ax = show(result, index=1)
    assert ax.get_title() == "class 9, score 0.25"
    assert ax.figure.axes[1].get_ylim() == (0, 100)  # a quarter of a score of a quarter is all of it
    raw = show(result, index=1, unit="raw").figure.axes[1]
    assert (raw.get_ylabel(), raw.get_ylim()) == ("relevance per pixel", (0, 0.25))
    with pytest.raises(InputError, match="no sample 2"):
        show(result, index=2)


def test_show_draws_filled_levels():
    result = result_of(torch.linspace(0, 1, 16).reshape(1, 4, 4), [1.0], [0])
    assert show(result, levels=4).get_xlabel() == "5 levels, 0 to 100 %"


@pytest.mark.slow
def test_drawing_touches_neither_pyplot_nor_the_settings(tmp_path):
    code = (
        "import sys, numpy as np, matplotlib; before = matplotlib.rcParams.copy(); from relprop.viz import *;"
        "save(side_by_side(np.zeros((4, 4)), np.eye(4)), sys.argv[1]);"
        "assert 'matplotlib.pyplot' not in sys.modules; assert dict.items(matplotlib.rcParams) == dict.items(before)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.png")], check=True)
