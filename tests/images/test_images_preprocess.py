"""Preprocessing equals torchvision's and timm's, bit for bit, and can be undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models import get_weight

from relprop.errors import InputError, UsageError
from relprop.images import Preprocess

SIZES = [(300, 200), (200, 301), (256, 256), (17, 400), (640, 427)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",  # resize 232
        "Inception_V3_Weights.IMAGENET1K_V1",  # 342 and 299
        "ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1",  # bicubic
    ],
)
def test_it_equals_torchvisions_transforms(noise, name, size):
    published = get_weight(name).transforms()
    assert torch.equal(Preprocess.from_torchvision(published)(noise(*size)), published(noise(*size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["resnet50d", "resnetv2_50", "tf_efficientnet_lite0", "vit_base_patch16_siglip_224"])
def test_it_equals_timms_transform(noise, name, size):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**config, is_training=False)(noise(*size))
    assert torch.equal(Preprocess.from_timm(config)(noise(*size)), expected)


def test_timms_squash_is_known(noise):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    cfg = timm.get_pretrained_cfg("vit_base_patch16_siglip_224").to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=cfg)
    assert Preprocess.from_timm(config).squash == (config["crop_mode"] == "squash")
    squashed = Preprocess.from_timm(config | {"crop_mode": "squash"})
    expected = timm.data.create_transform(**config | {"crop_mode": "squash"}, is_training=False)(noise(300, 200))
    assert torch.equal(squashed(noise(300, 200)), expected)


def test_grey_input_equals_torchvisions(noise):
    before = [transforms.Grayscale(), transforms.Resize(40), transforms.CenterCrop(32)]
    expected = transforms.Compose([*before, transforms.ToTensor(), transforms.Normalize([0.5], [0.25])])
    grey = Preprocess(size=32, resize=40, mean=(0.5,), std=(0.25,), channels=1)
    assert torch.equal(grey(noise(90, 60)), expected(noise(90, 60)))


def test_a_plain_picture_by_hand():
    x = Preprocess(size=2, resize=2, mean=(0.2,), std=(0.5,))(Image.new("RGB", (6, 4), (255, 51, 0)))
    assert x.shape == (3, 2, 2)
    assert x[:, 0, 0].tolist() == pytest.approx([1.6, 0.0, -0.4])  # (1 - 0.2) / 0.5, (0.2 - 0.2) / 0.5, -0.2 / 0.5


def test_crop_is_what_the_network_sees(noise):
    prepare = Preprocess(size=20, resize=24)
    seen = prepare.crop(noise(50, 40))
    assert (seen.size, seen.mode) == ((20, 20), "RGB")
    pixels = prepare.denormalize(prepare(noise(50, 40))) * 255
    assert torch.equal(pixels.round().to(torch.uint8), transforms.functional.pil_to_tensor(seen))


def test_crop_takes_the_middle():
    picture = Image.new("RGB", (8, 2))
    picture.paste((255, 255, 255), (3, 0, 5, 2))
    assert Preprocess(size=2, resize=2).crop(picture).getcolors() == [(4, (255, 255, 255))]


def test_crop_of_a_grey_network_is_grey():
    seen = Preprocess(size=2, resize=2, channels=1).crop(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert seen.getpixel((0, 0)) == (76, 76, 76)  # 0.299 x 255


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 3, 5, 5)])
def test_denormalize_undoes_normalize(shape):
    pixels = torch.rand(shape, dtype=torch.float64)
    prepare = Preprocess()
    x = prepare.normalize(pixels)
    assert x.dtype == torch.float64
    assert (prepare.denormalize(x) - pixels).abs().max() < 1e-15


def test_adapt_scales_the_resize_with_the_size():
    assert Preprocess(size=224, resize=256).adapt(size=448) == Preprocess(size=448, resize=512)
    assert Preprocess(size=224, resize=232).adapt(size=112).resize == 116


def test_adapt_keeps_what_is_not_given():
    before = Preprocess(interpolation="bicubic")
    assert before.adapt() == before
    assert before.adapt(mean=[0.5]).mean == (0.5, 0.5, 0.5)
    assert before.adapt(mean=[0.0, 0.0, 0.0]).mean == (0.0, 0.0, 0.0)


def test_three_values_become_their_mean_for_a_grey_network():
    assert Preprocess(mean=(0.1, 0.2, 0.6), std=(0.5,), channels=1).mean == pytest.approx((0.3,))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 0}, "size must be positive and at most resize; they are 0 and 256"),
        ({"size": 300}, "size must be positive and at most resize; they are 300 and 256"),
        ({"mean": (0.5, 0.5)}, "mean needs one value, or 3: one a channel; there are 2"),
        ({"std": (0.0,)}, "mean must be finite and std positive"),
        ({"mean": (float("nan"),)}, "mean must be finite and std positive"),
        ({"std": (float("nan"),)}, "mean must be finite and std positive"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, bilinear, bicubic, lanczos, not 'cubic'"),
        ({"channels": 4}, "this network wants 4"),
    ],
)
def test_values_that_make_no_sense_are_refused(options, told):
    with pytest.raises(UsageError, match=told.replace("(", r"\(").replace(")", r"\)")):
        Preprocess(**options)


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"input_size": (3, 224, 320)}])
def test_timm_configs_that_cannot_be_followed_are_refused(change):
    config = {"input_size": (3, 224, 224), "crop_pct": 0.9, "mean": (0.5,), "std": (0.5,), "interpolation": "bicubic"}
    with pytest.raises(UsageError, match="only square inputs with 'center' or 'squash' can be prepared"):
        Preprocess.from_timm(config | change)


def test_a_thread_of_a_picture_is_refused_before_it_is_blown_up():
    """1 x 60,000 pixels are few; with the shorter side at 256 they would be 3.9 billion."""
    with pytest.raises(InputError, match="a picture of 1 x 60000 pixels is too thin to resize its shorter side to 256"):
        Preprocess()(Image.new("RGB", (1, 60_000)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("squash", [False, True])
def test_a_box_goes_where_its_pixels_go(size, squash):
    prepare = Preprocess(size=96, resize=96 if squash else 112, squash=squash)
    width, height = size
    box = (round(0.4 * width), round(0.35 * height), round(0.55 * width), round(0.6 * height))
    marked = Image.new("RGB", size)
    marked.paste((255, 255, 255), box)
    seen = np.asarray(prepare.crop(marked).convert("L")).astype(float) / 255
    x0, y0, x1, y1 = prepare.box(box, size)
    assert seen.sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.02)
    rows, columns = np.indices(seen.shape) + 0.5
    assert (seen * columns).sum() / seen.sum() == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert (seen * rows).sum() / seen.sum() == pytest.approx((y0 + y1) / 2, abs=0.1)


def test_a_box_is_cut_at_the_crop():
    prepare = Preprocess(size=100, resize=100)  # of 300 x 100 the columns from 100 to 200
    assert prepare.box((0, 0, 300, 100), (300, 100)) == (0, 0, 100, 100)
    assert prepare.box((90, 10, 150, 20), (300, 100)) == (0, 10, 50, 20)
    assert prepare.box((0, 0, 100, 100), (300, 100)) is None
    with pytest.raises(InputError, match=r"0,0,301,5 does not lie within the picture of 300 x 100 pixels"):
        prepare.box((0, 0, 301, 5), (300, 100))
