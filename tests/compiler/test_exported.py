"""Programs of `torch.export`: from a file, for one image, of recurrent layers, of two inputs, with derivatives."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo  # which torch would import within a test, where its objects are looked at for garbage
from torch import Tensor, nn

import relprop
from core_balance import assert_same
from relprop.errors import InputError
from tiny import Tiny, images


def test_an_exported_program_from_a_file(tiny, expected, tmp_path):
    batch = torch.export.Dim("batch")
    program = torch.export.export(tiny, (images(),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "tiny.pt2")
    loaded = torch.export.load(tmp_path / "tiny.pt2")
    lrp = relprop.LRP(loaded, keep=["conv2"])
    assert_same(lrp(images()), expected)
    assert lrp(images(5)).relevance.shape == (5, 3, 8, 8)
    with pytest.raises(InputError, match=r"exported for inputs of shape \(N, 3, 8, 8\); x has \(2, 3, 9, 9\)"):
        lrp(images(2, 9))


def test_an_exported_program_for_one_image(tiny, expected):
    program = torch.export.export(tiny, (images(1),))
    result = relprop.explain(program, images(1))
    torch.testing.assert_close(result.relevance[0], expected.relevance[0], rtol=1e-5, atol=1e-8)
    with pytest.raises(InputError, match=r"shape \(1, 3, 8, 8\); x has \(2, 3, 8, 8\).*dynamic_shapes"):
        relprop.explain(program, images(2))


class Signal(nn.Module):
    """A recurrent layer in both directions, and a classifier of its last time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.fc = nn.LSTM(3, 5, batch_first=True, bidirectional=True), nn.Linear(10, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(x)[0][:, -1])


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
def test_an_exported_recurrent_layer():
    model, x = Signal(), torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (x,))
    assert_same(relprop.explain(program, x, target=1), relprop.explain(model, x, target=1), rtol=1e-4)


class Pair(nn.Module):
    """Two inputs, an image and a depth map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.depth, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 2, 3), nn.Linear(6, 3)
        self.eval()

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        seen = [self.image(image).relu().mean((2, 3)), self.depth(depth).relu().mean((2, 3))]
        return self.head(torch.cat(seen, 1))


def test_an_exported_network_of_two_inputs():
    model, given = Pair(), (images(), images()[:, :1])
    program = torch.export.export(model, given)
    found, expected = relprop.explain(program, given, target=1), relprop.explain(model, given, target=1)
    torch.testing.assert_close(found.relevance, expected.relevance)
    assert found.names == ("image", "depth")
    with pytest.raises(InputError, match=r"takes 2 inputs, image, depth; it was given 1. Several inputs are a tuple"):
        relprop.explain(program, given[0])


def test_an_exported_model_trains_too():
    model, x = Tiny().double(), images().double()

    def gradient(explained: object, weight: Tensor) -> tuple[Tensor, ...]:
        loss = relprop.LRP(explained, differentiable=True)(x, 1).relevance.square().sum()
        return torch.autograd.grad(loss, weight)

    program = torch.export.export(model, (x,))
    weight = dict(program.named_parameters())["fc.weight"]
    torch.testing.assert_close(gradient(program, weight), gradient(model, model.fc.weight))


def test_a_program_whose_weights_were_replaced(tiny):
    program = torch.export.export(tiny, (images(),))
    lrp = relprop.LRP(program)
    lrp(images())
    program.state_dict["conv1.weight"] = nn.Parameter(-program.state_dict["conv1.weight"])
    torch.testing.assert_close(lrp(images()).logits, program.module()(images()).detach())
