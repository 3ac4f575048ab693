"""Names find the network they say; a miss says what there is and what to do."""

from __future__ import annotations

import dataclasses
import sys
import urllib.error

import pytest
import torch
from torch import nn
from torchvision import models as zoo

import relprop
import relprop.models.bundled as bundled
from relprop.data import balanced, open_dataset
from relprop.errors import InputError, MissingDependencyError, ModelError, UsageError
from relprop.images import Preprocess
from relprop.models import load_model, model_names


def message(*arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


def wants_arguments(depth):
    return depth


def test_torchvision_weights_come_with_recipe_and_classes(monkeypatch):
    """With the download replaced by the untrained network's own tensors."""
    published = zoo.ResNet18_Weights.IMAGENET1K_V1
    torch.manual_seed(5)
    state = zoo.resnet18().state_dict()
    monkeypatch.setattr(type(published), "get_state_dict", lambda self, *args, **options: state)
    loaded = load_model("resnet18")
    assert torch.equal(loaded.model.fc.weight, state["fc.weight"])
    assert (loaded.name, loaded.source) == ("resnet18", "torchvision resnet18, ResNet18_Weights.IMAGENET1K_V1")
    assert loaded.class_name(1) == "goldfish"
    assert loaded.preprocess == Preprocess(size=224, resize=256)


def test_other_torchvision_weights_are_named_after_an_at(monkeypatch):
    state = zoo.resnet50(weights=None).state_dict()
    monkeypatch.setattr(zoo.ResNet50_Weights, "get_state_dict", lambda self, *args, **options: state)
    assert load_model("resnet50").preprocess.resize == 256
    assert load_model("resnet50@IMAGENET1K_V2").preprocess.resize == 232
    assert load_model("resnet50@DEFAULT").source == "torchvision resnet50, ResNet50_Weights.IMAGENET1K_V2"
    told = message("resnet50@V3")
    assert told == "torchvision has no weights 'V3' for resnet50; it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"


def test_a_download_that_fails_says_what_to_do(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    told = message("resnet18")
    assert told.startswith("the weights of resnet18 are not on this machine and could not be fetched from http")
    assert "(<urlopen error no route>); give a checkpoint file with arch='resnet18' (--arch)" in told
    assert "use the bundled efficientnet-lite0, or random:resnet18" in told


def test_a_timm_download_that_fails_says_what_to_do(monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    hub = pytest.importorskip("huggingface_hub.constants", reason="timm's hub client is not installed")
    before = hub.HF_HUB_OFFLINE

    def refuse(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert "the weights of timm:resnet50d are not on this machine" in message(
        "resnet50d"
    )  # torchvision has no such name
    assert "give a checkpoint file with arch='timm:resnet18' (--arch)" in message("timm:resnet18")
    assert before == hub.HF_HUB_OFFLINE


def test_untrained_timm_models_are_told_apart():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    told = message(f"timm:{name}")
    assert told.startswith(f"timm has no trained weights for {name}; give a checkpoint with arch='timm:{name}'")
    assert load_model(f"random:timm:{name}").source == f"timm {name}, untrained (seed 0)"


def test_random_weights_are_always_the_same_and_leave_the_generator_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = (load_model("random:cifar-resnet20").model.fc.weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert load_model("random:cifar-resnet20").source.endswith("cifar-resnet20, untrained (seed 0)")


@pytest.mark.parametrize(
    ("name", "shortcuts"),
    [("cifar-resnet20", 0), ("cifar-resnet20-b", 2), ("cifar-resnet32", 0), ("cifar-resnet56", 0)],
)
def test_cifar_networks_have_the_depth_and_shortcuts_of_their_name(name, shortcuts):
    model = load_model(f"random:{name}").model
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    depth = int(name.removeprefix("cifar-resnet").removesuffix("-b"))
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) + 1 == depth
    assert len([c for c in convolutions if c.kernel_size == (1, 1)]) == shortcuts


def test_cifar_names_have_no_weights_of_their_own():
    told = message("cifar-resnet20")
    assert told.startswith("cifar-resnet20 has no published weights; give a checkpoint with arch='cifar-resnet20'")
    assert "a CIFAR ResNet has 6n + 2 layers" in message("random:cifar-resnet21")


def test_googlenet_and_inception_build_without_a_warning():
    assert load_model("random:googlenet").preprocess.size == 224


def test_a_factory_is_called():
    loaded = load_model(f"{__name__}:Tiny", size=16, std=(0.5,))
    assert isinstance(loaded.model, Tiny)
    assert not loaded.model.training
    assert loaded.preprocess == Preprocess(size=16, resize=18, std=(0.5,))
    assert loaded.classes is None


def test_a_factory_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 2)\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_model("nets_of_mine:make").model.in_features == 4
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere_at_all:make", "'nowhere_at_all:make' cannot be imported (ModuleNotFoundError"),
        (f"{__name__}:make", "has no 'make'"),
        (f"{__name__}:sys.path", "is a list; it has to be a function or class that returns a model"),
        (f"{__name__}:wants_arguments", "failed with TypeError: wants_arguments() missing 1 required"),
        ("os:getcwd", "os:getcwd returned a str; it has to return a torch.nn.Module"),
    ],
)
def test_a_factory_that_cannot_be_used_says_why(name, told):
    assert told in message(name)


@pytest.mark.parametrize(("name", "near"), [("resnet5O", "resnet50"), ("cifar-resnet2O", "cifar-resnet20")])
def test_an_unknown_name_is_shown_its_neighbours(name, near):
    told = message(name)
    assert told.startswith(f"no model is named '{name}'; did you mean '")
    assert f"'{near}'" in told


def test_without_timm_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"timm is not installed; it comes with: pip install .*\[timm\]'"):
        load_model("timm:resnet50d")
    assert message("resnet50d").startswith("no model is named 'resnet50d'")


class Yes(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.Sigmoid())


class Map(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)


def test_a_multi_label_model_returns_the_sigmoids_of_its_scores():
    options = {"size": 32, "multi_label": True}
    plain, labels = (load_model("random:cifar-resnet20", **given).model for given in ({"size": 32}, options))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(labels(x), plain(x).sigmoid())
    assert [*labels.state_dict()] == [*plain.state_dict()]
    result = relprop.explain(labels, x, target=3)
    assert result.link == "sigmoid"
    torch.testing.assert_close(result.score, plain(x)[:, 3].sigmoid().detach())
    ends = load_model(f"{__name__}:Yes", size=8, multi_label=True).model  # in a sigmoid, as it is
    assert torch.equal(ends(x[:, :, :8, :8]), nn.Sequential.forward(ends, x[:, :, :8, :8]))


def test_maps_of_scores_are_no_labels():
    model = load_model(f"{__name__}:Map", size=8, multi_label=True).model
    with pytest.raises(InputError, match=r"must return scores \(N, classes\), not \(1, 4, 6, 6\)"):
        model(torch.rand(1, 3, 8, 8))


def test_a_device_that_is_not_there():
    with pytest.raises(UsageError, match=r"the device 'nonsense' cannot be used here: .*; cpu always can"):
        load_model("random:cifar-resnet20", device="nonsense")


def test_all_names_are_listed():
    names = model_names()
    assert names[0] == "efficientnet-lite0"
    assert {"cifar-resnet20", "cifar-resnet110-b", "resnet50"} <= set(names)
    assert "maskrcnn_resnet50_fpn" not in names  # no classifier


def test_the_result_is_frozen():
    loaded = load_model("random:cifar-resnet20")
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.name = "other"


def test_the_shipped_cifar_network_is_ready():
    loaded = load_model("resnet20-cifar10")
    assert (loaded.name, loaded.preprocess.size, loaded.class_name(9)) == ("resnet20-cifar10", 32, "truck")
    assert [name for name, _ in loaded.model.named_modules() if name.endswith("downsample")]
    assert "resnet20-cifar10" in model_names()
    assert bundled.RESNET20_FILE.stat().st_size < 2_000_000


def test_the_shipped_cifar_network_is_as_good_as_its_card_says(shared):
    """87.85 % of all test pictures; of 400, with a standard error of 1.6 %, more than 83 %."""
    dataset = open_dataset(f"parquet:{shared}/data/cifar10/test.parquet")
    samples, loaded = balanced(dataset.samples, 400, 0), load_model("resnet20-cifar10")
    x = torch.stack([loaded.preprocess(dataset.load(sample)) for sample in samples])
    with torch.no_grad():
        right = loaded.model(x).argmax(1) == torch.tensor([sample.label for sample in samples])
    assert right.double().mean() > 0.83
