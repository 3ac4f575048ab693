import pytest
import torch
from torchvision.models import resnet18

from relprop.cifar import PaddedShortcut, cifar_resnet
from relprop.errors import UsageError


@pytest.mark.parametrize(
    ("depth", "shortcut", "parameters"),
    [
        (20, "A", 269_722),  # He et al. print 0.27 M, 0.46 M, 0.66 M, 0.85 M and 1.7 M
        (32, "A", 464_154),
        (56, "A", 853_018),
        (110, "A", 1_727_962),
        (20, "B", 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),  # two 1x1 convolutions with batch norm
    ],
)
def test_parameters_as_published(depth, shortcut, parameters):
    model = cifar_resnet(depth, shortcut=shortcut)
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters


def test_shapes_through_the_stages():
    model = cifar_resnet(20, width=8, num_classes=7).eval()
    x = model.relu(model.bn1(model.conv1(torch.rand(2, 3, 32, 32))))
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in (model.layer1, model.layer2, model.layer3)]
    assert shapes == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_option_a_takes_every_second_pixel_and_pads_channels_on_either_side():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4)
    out = PaddedShortcut(2, 4, stride=2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, 2].tolist() == [[16, 18], [24, 26]]
    assert not out[0, 0].any()
    assert not out[0, 3].any()


def test_names_are_those_of_torchvision():
    def in_first_blocks(model):
        return {name for name in model.state_dict() if not name.startswith("layer4") and ".2." not in name}

    assert in_first_blocks(cifar_resnet(14)) == in_first_blocks(resnet18())


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_other_depths_are_refused(depth):
    with pytest.raises(UsageError, match=rf"6n \+ 2 layers .*, not {depth}"):
        cifar_resnet(depth)


def test_other_shortcuts_are_refused():
    with pytest.raises(UsageError, match="shortcut must be 'A'"):
        cifar_resnet(20, shortcut="C")
