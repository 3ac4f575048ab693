"""Targets, layers kept, and results on disk."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import tensor

import relprop
from relprop.cifar import cifar_resnet
from relprop.errors import InputError, UsageError
from tiny import Tiny, images


@pytest.fixture(scope="module")
def lrp():
    return relprop.LRP(Tiny(), keep=["conv1", "bn1", "conv2", "relu", "add", "fc", "input", "output"])


# ---- targets


def test_no_target_means_the_predicted_class_of_each_image():
    model = Tiny()
    with torch.no_grad():  # centred, or else all images are of one class
        model.fc.bias.copy_(-model.fc.weight @ model.features(images(6)).mean(0))
    result = relprop.explain(model, images(6))
    probability = model(images(6)).softmax(1).detach()
    assert len(set(result.target.tolist())) > 1
    assert result.target.tolist() == probability.argmax(1).tolist()
    torch.testing.assert_close(result.score, probability.amax(1))
    torch.testing.assert_close(result.probability, result.score)


@pytest.mark.parametrize(
    "target", [[3, 1], (3, 1), tensor([3, 1]), np.array([3, 1]), tensor([3, 1], dtype=torch.uint8)]
)
def test_a_target_for_each_image(lrp, target):
    result = lrp(images(), target=target)
    assert result.target.tolist() == [3, 1]
    probability = result.logits.softmax(1)
    assert result.score.tolist() == [probability[0, 3].item(), probability[1, 1].item()]
    assert torch.equal(lrp(images(), target=3).relevance[0], result.relevance[0])


@pytest.mark.parametrize("target", [2, np.int64(2), tensor(2)])
def test_one_target_for_all(lrp, target):
    assert lrp(images(), target=target).target.tolist() == [2, 2]


def test_several_targets_an_image(lrp):
    result = lrp(images(), target=[[0, 1, 2], [4, 3, 4]])
    assert result.relevance.shape == (2, 3, 3, 8, 8)
    assert result.heatmap.shape == (2, 3, 8, 8)
    assert result.score.shape == result.target.shape == result.probability.shape == (2, 3)
    assert result.at("conv2").shape == (2, 3, 4, 8, 8)
    assert result.quantized().shape == (2, 3, 8, 8)
    assert result.ledger.start.tolist() == result.score.double().flatten().tolist()
    for k, column in enumerate(([0, 4], [1, 3], [2, 4])):
        alone = lrp(images(), target=column)
        assert torch.equal(alone.relevance, result.relevance[:, k])
        assert torch.equal(alone.at("bn1"), result.at("bn1")[:, k])
    assert torch.equal(lrp(images(), target=[[0], [4]]).relevance[:, 0], result.relevance[:, 0])


def test_relevance_may_start_from_the_logit(lrp):
    result = lrp(images(), target=1, start="logit")
    assert torch.equal(result.score, result.logits[:, 1])
    by_probability = lrp(images(), target=1)
    scale = (result.score / by_probability.score).view(-1, 1, 1, 1)
    torch.testing.assert_close(result.relevance, by_probability.relevance * scale, rtol=1e-5, atol=1e-8)


def test_a_negative_logit_balances_too():
    model = Tiny()
    torch.nn.init.constant_(model.fc.bias, -5.0)
    result = relprop.LRP(model, strict=True)(images(), target=0, start="logit")
    assert (result.score < 0).all()
    assert result.ledger.gap < 1e-6


# ---- layers kept


def test_every_cut_holds_the_score(lrp):
    result = lrp(images())
    for name, side in (
        ("input", "output"),
        ("conv1", "output"),
        ("bn1", "input"),
        ("relu", "output"),
        ("add", "output"),
    ):
        total = result.at(name, side).flatten(1).sum(1)
        torch.testing.assert_close(total, result.score, rtol=1e-5, atol=0)
    assert torch.equal(result.at("input"), result.relevance)
    assert torch.equal(result.at("bn1", "input"), result.at("conv1"))
    assert result.at("fc", "input").shape == (2, 4)
    expected = torch.zeros(2, 5).scatter(1, result.target[:, None], result.score[:, None])
    assert torch.equal(result.at("output"), expected)


def test_a_module_of_several_steps_has_its_first_call():
    """`relu` runs twice; the module's name means the first, steps tell them apart."""
    result = relprop.LRP(Tiny(), keep="all")(images())
    assert torch.equal(result.at("relu"), result.at("bn1", "output"))
    assert not torch.equal(result.at("relu@1"), result.at("relu"))
    assert torch.equal(result.at("relu@1", "input"), result.at("add"))


def test_blocks_of_a_resnet_can_be_kept():
    net = cifar_resnet(14, num_classes=4, width=4).eval()
    result = relprop.LRP(net, keep=["layer1.0", "layer3.1", "relu"])(torch.randn(1, 3, 16, 16))
    assert result.at("layer3.1").shape == (1, 16, 4, 4)
    assert result.at("layer1.0", "input").shape == result.at("relu").shape == (1, 4, 16, 16)
    for name in ("layer1.0", "layer3.1"):
        for side in ("input", "output"):
            assert result.at(name, side).sum().item() == pytest.approx(result.score.item(), rel=1e-5)


def test_keeping_changes_nothing(lrp):
    assert torch.equal(lrp(images()).relevance, relprop.explain(Tiny(), images()).relevance)


def test_nothing_is_kept_unless_asked_for():
    assert relprop.explain(Tiny(), images()).kept == {}


# ---- results


def test_a_result_is_frozen(lrp):
    with pytest.raises(FrozenInstanceError):
        lrp(images()).relevance = torch.zeros(1)


@pytest.mark.parametrize("target", [None, [[0, 1], [2, 3]]], ids=["N", "N, K"])
def test_a_result_comes_back_from_disk_as_it_was(lrp, tmp_path, target):
    result = lrp(images(), target=target)
    back = relprop.Relevance.load(result.save(tmp_path / "results" / "one"))
    for name in ("relevance", "target", "score", "logits", "heatmap", "probability"):
        assert torch.equal(getattr(back, name), getattr(result, name))
    assert back.kept.keys() == result.kept.keys()
    assert all(torch.equal(back.kept[key], value) for key, value in result.kept.items())
    assert back.composite == "paper"
    assert back.ledger.table("step") == result.ledger.table("step")
    assert (back.ledger.gap, back.ledger.absorbed) == (result.ledger.gap, result.ledger.absorbed)
    assert torch.equal(back.ledger.gaps, result.ledger.gaps)


def test_what_is_saved_holds_no_pickle(lrp, tmp_path):
    folder = lrp(images()).save(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"relevance.safetensors", "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["shape"] == [2, 3, 8, 8]
    assert manifest["gap"] < 1e-6


def test_a_result_without_a_ledger_is_saved_too(tmp_path):
    result = relprop.LRP(Tiny(), ledger=False)(images())
    assert relprop.Relevance.load(result.save(tmp_path)).ledger is None


def test_loading_what_is_no_result(tmp_path, lrp):
    with pytest.raises(InputError, match="holds no result that can be read"):
        relprop.Relevance.load(tmp_path)
    folder = lrp(images()).save(tmp_path)
    (folder / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="has format 99; this version reads 1"):
        relprop.Relevance.load(folder)
    lrp(images()).save(tmp_path)
    (folder / "relevance.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="holds no result that can be read"):
        relprop.Relevance.load(folder)


def test_only_maps_of_images_are_quantized():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2)).eval()
    with pytest.raises(UsageError, match="only maps of images are quantized"):
        relprop.explain(model, torch.rand(2, 3)).quantized()
