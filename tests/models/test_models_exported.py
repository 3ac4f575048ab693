"""Exported programs are loaded when trusted; their input's shape sets the preprocessing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop.errors import ModelError, UsageError
from relprop.images import Preprocess
from relprop.models import load_model


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.fixture
def exported(tmp_path):
    def export(model: nn.Module, *inputs: torch.Tensor, **options):
        torch.export.save(torch.export.export(model.eval(), inputs, **options), tmp_path / "net.pt2")
        return tmp_path / "net.pt2"

    return export


def test_a_trusted_program_computes_what_was_exported(exported):
    net, x = Net(), torch.randn(2, 3, 20, 20)
    loaded = load_model(exported(net, x), trust=True, mean=(0.5,))
    assert torch.equal(loaded.model.module()(x), net(x))
    assert (loaded.name, loaded.classes) == ("net", None)
    assert loaded.preprocess == Preprocess(size=20, resize=23, mean=(0.5,))


def test_labels_are_part_of_what_is_exported(exported):
    path = exported(Net(), torch.randn(2, 3, 20, 20))
    with pytest.raises(UsageError, match="export it with a sigmoid at its end"):
        load_model(path, trust=True, multi_label=True)


def test_grey_and_open_sizes_are_read_off(exported):
    x = torch.randn(2, 1, 20, 20)
    side = torch.export.Dim.DYNAMIC
    path = exported(Net(1), x, dynamic_shapes=({0: side, 2: side, 3: side},))
    assert load_model(path, trust=True).preprocess == Preprocess(size=224, resize=256, channels=1)
    assert load_model(path, trust=True, size=64).preprocess.size == 64


def test_without_trust_it_is_refused_unread(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"reading one can run code that it holds; .* trust=True \(--trust\)"):
        load_model(path)


def test_files_that_are_no_program(tmp_path):
    path = tmp_path / "net.pt2"
    with pytest.raises(ModelError, match="there is no file"):
        load_model(path, trust=True)
    path.write_bytes(b"anything")
    with pytest.raises(ModelError, match="is not an exported program of this version of torch"):
        load_model(path, trust=True)
    with pytest.raises(
        UsageError, match="an exported program, which brings its architecture; leave arch='resnet18' out"
    ):
        load_model(path, trust=True, arch="resnet18")


def test_programs_that_take_no_single_square_picture(exported):
    with pytest.raises(ModelError, match=r"takes 2 inputs of shapes .*; it has to take one, \(N, C, H, W\)"):
        load_model(exported(TwoInputs(), torch.ones(2, 3), torch.ones(2, 3)), trust=True)
    with pytest.raises(ModelError, match="takes pictures of 20 x 30; only square ones can be prepared"):
        load_model(exported(Net(), torch.ones(2, 3, 20, 30)), trust=True)
