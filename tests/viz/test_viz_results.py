"""Whole results as pictures: shared scales, figures, contours, notebooks, and colours for everybody."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from relprop.core.result.relevance import Relevance
from relprop.core.result.several import Relevances
from relprop.errors import InputError, ModelError
from relprop.viz import contours, figure, grid, scale_of, shared_scale, show
from relprop.viz.colour import GROUND
from relprop.viz.notebook import page, png

PEAKS = torch.zeros(3, 1, 4, 4)
PEAKS[0, 0, 0, 0], PEAKS[1, 0, 1, 1], PEAKS[2, 0, 2, 2] = 0.5, 0.25, 0.125


def result_of(relevance: torch.Tensor, target: torch.Tensor, **more) -> Relevance:
    score = relevance.flatten(target.dim()).sum(-1)
    return Relevance(relevance, target, score, torch.zeros(len(target), 10), composite="paper", **more)


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_one_scale_for_maps_of_several_sizes():
    scale = shared_scale([np.array([[1.0, -3.0]]), np.full((2, 2), 2.0)], percentile=None)
    assert (scale.low, scale.high, scale.signed, scale.largest) == (-3, 3, True, 2)
    with pytest.raises(InputError, match="at least one heatmap"):
        shared_scale([])


def test_a_figure_draws_all_maps_on_one_scale():
    whole = figure(result_of(PEAKS, torch.tensor([7, 8, 9])), unit="raw", percentile=None)
    drawn = pictures(whole)
    scale = scale_of(np.array([[0, 0.5]]), percentile=None)
    for place, value in enumerate((0.5, 0.25, 0.125)):
        assert drawn[place][place, place] == pytest.approx(scale.over(np.array(value), GROUND))
    words = texts(whole)
    assert {"class 7, score 0.5", "class 8, score 0.25", "class 9, score 0.125", "relevance per pixel"} <= set(words)
    assert "colours span 0 to 0.5; data from 0 to 0.5" in words


def test_classes_are_called_by_the_names_given(tmp_path):
    names = [f"bird {at}" for at in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    one = result_of(PEAKS, torch.tensor([7, 8, 9]))
    for given in (names, {name: at for at, name in enumerate(names)}, tmp_path / "names.txt"):
        assert {"bird 7, score 0.5", "bird 9, score 0.125"} <= set(texts(figure(one, classes=given)))
        assert show(one, index=1, classes=given).get_title() == "bird 8, score 0.25"
    contrast = result_of(PEAKS, torch.tensor([-1, -1, -1]), what="class 1 against class 2")
    assert show(contrast, classes=names).get_title() == "class 1 against class 2, score 0.5"
    with pytest.raises(ModelError, match="9 class names were given, but the network has 10 outputs"):
        show(one, classes=names[:9])


def test_shares_make_maps_of_different_scores_comparable():
    drawn = pictures(figure(result_of(PEAKS, torch.tensor([7, 8, 9])), percentile=None))
    assert drawn[0][0, 0].tolist() == drawn[1][1, 1].tolist() == drawn[2][2, 2].tolist()  # each is all of its score


def test_a_figure_of_several_classes_has_a_row_for_each_image_and_names_what_it_leaves_out():
    relevance = PEAKS[:2, None].expand(2, 3, 1, 4, 4)
    result = result_of(relevance, torch.tensor([[1, 2, 3], [4, 5, 6]]))
    drawn = figure(result, [np.full((4, 4, 3), 0.5)] * 2)
    titles = [ax.get_title() for ax in drawn.axes if ax.images]
    assert [title.split(",")[0] for title in titles] == [f"class {k}" for k in range(1, 7)]
    assert any("; 2 more maps are not drawn" in text for text in texts(figure(result, limit=4)))


def test_a_contrast_is_drawn_about_zero_and_by_its_words():
    signed = torch.tensor([[[[1.0, -2.0]]]])
    result = result_of(signed, torch.tensor([-1]), what="class 1 against 2")
    drawn = figure(result, percentile=None)
    assert {"class 1 against 2, score -1", "relevance per pixel"} <= set(texts(drawn))
    favour, against = pictures(drawn)[0][0]
    assert favour[0] > favour[2]  # orange
    assert against[2] > against[0]  # blue
    assert show(result).get_title() == "class 1 against 2, score -1"


def test_what_cannot_be_drawn_is_refused():
    flat = Relevance(torch.ones(2, 5), torch.tensor([0, 1]), torch.ones(2), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"only maps of images can be drawn, not relevance of shape \(2, 5\)"):
        figure(flat)
    with pytest.raises(InputError, match="1 pictures for 3 images"):
        figure(result_of(PEAKS, torch.tensor([7, 8, 9])), [np.zeros((4, 4, 3))])
    assert png(flat) is None
    assert "<img" not in page(flat)
    assert "class 1" in page(flat)


def test_a_grid_can_share_its_scale():
    maps = [PEAKS[0, 0].numpy(), PEAKS[1, 0].numpy()]
    image = np.full((4, 4, 3), 0.5)
    alone, shared = (grid([image] * 2, {"LRP": maps}, percentile=None, scale=s) for s in ("each", "shared"))
    assert pictures(alone)[1][0, 0].tolist() == pictures(alone)[3][1, 1].tolist()
    fixed = scale_of(np.array([[0.0, 0.5]]), percentile=None)
    ground = np.full(3, 0.03 + 0.55 * 0.5)
    assert pictures(shared)[3][1, 1] == pytest.approx(fixed.over(np.array(0.25), ground))
    assert "colours span 0 to 0.5; data from 0 to 0.5" in texts(shared)
    assert texts(grid([image] * 2, {"LRP": maps}, scale=fixed)) == texts(shared)
    with pytest.raises(InputError, match="scale must be 'each', 'shared' or a Scale, not 'same'"):
        grid([image], {"LRP": maps[:1]}, scale="same")


# ---- contours


def test_contours_fill_one_band_a_level_with_the_colour_of_that_level():
    ramp = np.repeat(np.linspace(0, 8, 17)[None], 3, axis=0)  # 4 levels: 0, 2, 4, 6; edges at columns 4, 8, 12
    ax = contours(None, ramp, levels=4)
    ax.figure.draw_without_rendering()
    filled = ax.collections[0]
    scale = scale_of(np.array([[0.0, 2.0, 4.0, 6.0]]), levels=True)
    assert filled.get_facecolor() == pytest.approx(scale.rgba(np.array([0.0, 2.0, 4.0, 6.0])))
    spans = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in filled.get_paths()]
    assert spans == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert ax.get_xlabel() == "4 levels, 0 to 6"


def test_smoothed_contours_say_so_and_have_outlines():
    noisy = np.zeros((32, 32))
    noisy[16, 16] = 1.0
    ax = contours(None, noisy, smooth=3)
    assert ax.get_xlabel().endswith(", after a Gaussian of 3 px")
    assert float(ax.get_xlabel().split(" to ")[1].split(",")[0]) == pytest.approx(1 / (2 * np.pi * 9), rel=0.15)
    assert len(ax.collections) == 2
    assert len(contours(None, noisy).collections) == 1


def test_contours_of_a_constant_map_and_of_too_few_levels():
    assert not contours(None, np.ones((3, 3))).collections
    with pytest.raises(InputError, match="at least 2 levels, not 1"):
        contours(None, np.eye(3), levels=1)


def test_show_draws_contours():
    result = result_of(torch.linspace(0, 1, 16).view(1, 1, 4, 4), torch.tensor([3]))
    figure = Figure()
    ax = figure.add_subplot()
    assert show(result, ax, contours=True) is ax
    assert len(ax.collections[0].get_paths()) == 8
    assert ax.get_title() == "class 3, score 8"


# ---- notebooks


def test_a_notebook_gets_a_picture_and_a_table():
    result = result_of(PEAKS, torch.tensor([7, 8, 9]))
    text = result._repr_html_()
    drawn = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert drawn is not None
    with Image.open(io.BytesIO(base64.b64decode(drawn[1]))) as picture:
        assert picture.format == "PNG"
        assert picture.width > 3 * 200
    assert base64.b64decode(drawn[1]) == result._repr_png_()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert cells[:4] == ["0", "class 7", "0.500000", "0.500000"]
    assert 'alt="relevance of the pixels of 3 map(s)' in text
    assert "<script" not in text
    assert "http" not in text


def test_words_of_the_user_are_escaped():
    result = result_of(PEAKS[:1], torch.tensor([-1]), what="<script>alert(1)</script>")
    assert "<script" not in page(result)


def test_long_results_are_cut_short_and_say_so():
    result = result_of(torch.ones(20, 1, 2, 2), torch.arange(20) % 10)
    assert page(result).count("<tr>") == 1 + 8
    assert "and 12 more" in page(result)
    assert repr(result).endswith("class 3: 4, and 16 more)")


def test_a_result_prints_numbers_and_no_tensors():
    assert repr(result_of(PEAKS[:1], torch.tensor([7]))) == "Relevance(1 x 1 x 4 x 4 by paper; class 7: 0.5)"


# ---- colours

#: what people see who lack one kind of cone, in linear RGB (Machado et al. 2009, severity 1)
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB (..., 3)."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = rgb @ to_xyz.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_for_and_against_stay_apart_under_colour_blindness(kind):
    """From a quarter of the range on, +v and -v differ by at least 20 in CIELAB (2 is just noticeable)."""
    scale = scale_of(np.array([[-1.0, 1.0]]), percentile=None)
    sizes = np.linspace(0.25, 1, 16)
    seen = []
    for sign in (1, -1):
        rgb = scale.over(sign * sizes, GROUND)
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen.append(lab(np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1)))
    assert np.linalg.norm(seen[0] - seen[1], axis=-1).min() > 20


def test_the_map_for_one_sign_grows_lighter_for_every_kind_of_eye():
    scale = scale_of(np.array([[0.0, 1.0]]), percentile=None)
    rgb = scale.over(np.linspace(0, 1, 65), GROUND)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in BLINDNESS.values():
        lightness = lab(np.clip(linear @ np.array(matrix).T, 0, 1))[:, 0]
        assert (np.diff(lightness) > -0.2).all()
        assert lightness[-1] - lightness[0] > 60


def of_two_inputs() -> Relevances:
    """A map of 4 x 4, one of 2 x 2, and five numbers that are no map, for two images."""
    whole = torch.zeros(2, 16 + 4 + 5)
    whole[0, 0], whole[0, 16], whole[0, 20] = 0.2, 0.1, 0.3
    whole[1, 5], whole[1, 19] = 0.4, 0.2
    shapes = (torch.Size([1, 4, 4]), torch.Size([1, 2, 2]), torch.Size([5]))
    return Relevances(result_of(whole, torch.tensor([7, 8])), ("image", "depth", "facts"), shapes)


def test_a_figure_has_a_panel_for_each_input_that_is_a_map_on_one_scale():
    result = of_two_inputs()
    drawn = pictures(figure(result, unit="raw", percentile=None))
    assert [picture.shape[:2] for picture in drawn] == [(4, 4), (2, 2)] * 2
    scale = scale_of(np.array([[0, 0.4]]), percentile=None)
    for place, (row, column), value in ((0, (0, 0), 0.2), (1, (0, 0), 0.1), (2, (1, 1), 0.4), (3, (1, 1), 0.2)):
        assert drawn[place][row, column] == pytest.approx(scale.over(np.array(value), GROUND))
    titles = [ax.get_title().replace("\n", " ") for ax in figure(result).axes if ax.images]
    assert titles[:2] == ["image: 0.2 of class 7, score 0.6", "depth: 0.1 of class 7, score 0.6"]
    black = {"depth": [np.zeros((2, 2)), np.zeros((2, 2))]}
    over = pictures(figure(result, black, unit="raw", percentile=None))
    assert over[1][1, 1].max() < drawn[1][1, 1].min()
    assert over[0].tolist() == drawn[0].tolist()
    assert png(result) is not None
    with pytest.raises(InputError, match=r"show\(result\[NAME\]\) of 'image', 'depth', 'facts', or figure\(result\)"):
        show(result)
    assert show(result["depth"], index=1).images[0].get_array().shape == (2, 2, 3)
    with pytest.raises(InputError, match="none of the inputs facts is an image"):
        figure(Relevances(result_of(torch.ones(1, 5), torch.tensor([7])), ("facts",), (torch.Size([5]),)))
