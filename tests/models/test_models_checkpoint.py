"""A checkpoint loads into the network it came from, however it was wrapped, and into no other."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision import models as zoo

from relprop.cifar import cifar_resnet
from relprop.errors import ModelError, UsageError
from relprop.images import Preprocess, read_image
from relprop.models import load_model

CIFAR = "cifar-resnet8"


def plain(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def renamed(model: nn.Module, change) -> dict[str, torch.Tensor]:
    return {change(name): tensor for name, tensor in model.state_dict().items()}


def outputs(loaded, x):
    with torch.no_grad():
        return loaded.model(x)


def message(*arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("nest", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "net.", "module._orig_mod."])
def test_nests_and_prefixes_are_unwrapped(net, x, saved, nest, prefix):
    state = renamed(net, lambda name: prefix + name)
    path = saved({nest: state, "epoch": 3, "best_prec1": 91.8} if nest else state)
    loaded = load_model(path, arch=CIFAR)
    assert torch.equal(outputs(loaded, x), outputs_of(net, x))
    assert not loaded.model.training


def outputs_of(net, x):
    with torch.no_grad():
        return net(x)


def test_nests_within_nests_are_unwrapped(net, x, saved):
    path = saved({"model": {"state_dict": plain(net)}, "optimizer": {"lr": 0.1}})
    assert torch.equal(outputs(load_model(path, arch=CIFAR), x), outputs_of(net, x))


def test_a_factory_whose_names_begin_like_a_prefix_keeps_them(saved):
    wrapped = nn.ModuleDict({"model": zoo.resnet18(num_classes=4)})
    torch.manual_seed(1)
    path = saved(plain(wrapped))
    loaded = load_model(path, arch=f"{__name__}:wrapped_resnet")
    assert torch.equal(loaded.model.model.fc.weight, wrapped["model"].fc.weight)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = zoo.resnet18(num_classes=4)

    def forward(self, x):
        return self.model(x)


def wrapped_resnet() -> nn.Module:
    return Wrapped()


def test_other_spellings_are_read_and_noted(net, x, saved):
    path = saved(renamed(net, lambda name: "module." + name.replace("fc.", "linear.")))
    loaded = load_model(path, arch=CIFAR)
    assert torch.equal(outputs(loaded, x), outputs_of(net, x))
    assert loaded.source.endswith("cifar-resnet8; prefix 'module.' dropped; 'linear' read as 'fc'")
    assert re.search(r"weights\.pth \(sha256 [0-9a-f]{12}\)", loaded.source)


@pytest.mark.parametrize("arch", [CIFAR, f"{CIFAR}-b"])
def test_the_kind_of_shortcut_is_read_off(x, saved, arch):
    torch.manual_seed(0)
    projecting = cifar_resnet(8, shortcut="B").eval()
    path = saved(renamed(projecting, lambda name: name.replace("downsample", "shortcut")))
    assert torch.equal(outputs(load_model(path, arch=arch), x), outputs_of(projecting, x))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_the_number_of_classes_is_read_off(saved, name):
    """SqueezeNet's classifier is a convolution."""
    torch.manual_seed(0)
    model = zoo.get_model(name, weights=None, num_classes=7).eval()
    loaded = load_model(saved(plain(model)), arch=name)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(outputs(loaded, x), outputs_of(model, x))
    assert outputs(loaded, x).shape == (2, 7)
    assert loaded.classes is None


def test_grey_input_is_read_off(saved):
    torch.manual_seed(0)
    model = zoo.resnet18(num_classes=3)
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    loaded = load_model(saved(plain(model.eval())), arch="resnet18", size=64)
    assert loaded.preprocess == Preprocess(size=64, resize=73, channels=1)
    assert loaded.preprocess.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(outputs(loaded, x), outputs_of(model, x))


def test_timm_checkpoints_load(saved):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=6, in_chans=1).eval()
    loaded = load_model(saved(plain(model)), arch="timm:resnet10t")
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(outputs(loaded, x), outputs_of(model, x))
    assert loaded.preprocess.channels == 1
    assert loaded.preprocess.size == 176


@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_classifiers_may_be_missing(saved, auxiliary):
    torch.manual_seed(0)
    model = zoo.googlenet(weights=None, init_weights=False, num_classes=5, aux_logits=auxiliary).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(outputs(load_model(saved(plain(model)), arch="googlenet"), x), outputs_of(model, x))


def test_old_checkpoints_without_batch_counters_load(net, x, saved):
    path = saved({name: t for name, t in plain(net).items() if not name.endswith("num_batches_tracked")})
    assert torch.equal(outputs(load_model(path, arch=CIFAR), x), outputs_of(net, x))


def test_half_precision_weights_become_float32(net, saved):
    path = saved({name: t.half() if t.is_floating_point() else t for name, t in plain(net).items()})
    loaded = load_model(path, arch=CIFAR)
    assert loaded.model.fc.weight.dtype == torch.float32
    assert torch.equal(loaded.model.fc.weight, net.fc.weight.half().float())


def test_a_file_that_torchvision_publishes_brings_recipe_and_classes(saved):
    torch.manual_seed(0)
    path = saved(plain(zoo.resnet18()), "resnet18-f37072fd.pth")
    loaded = load_model(path)  # the name says the architecture
    assert loaded.class_name(285) == "Egyptian cat"
    assert loaded.preprocess == Preprocess(size=224, resize=256)


def test_published_googlenet_shifts_its_input_as_torchvision_does(saved):
    torch.manual_seed(0)
    model = zoo.googlenet(weights=None, init_weights=False, transform_input=True).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(outputs(load_model(saved(plain(model), "googlenet-1378be20.pth")), x), outputs_of(model, x))


def test_safetensors_metadata_say_everything(net, x, tmp_path):
    metadata = {"arch": CIFAR, "size": 32, "resize": 36, "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3}
    metadata["classes"] = [f"kind {index}" for index in range(10)]
    save_file(plain(net), tmp_path / "w.safetensors", {key: json.dumps(value) for key, value in metadata.items()})
    loaded = load_model(tmp_path / "w.safetensors")
    assert torch.equal(outputs(loaded, x), outputs_of(net, x))
    assert loaded.preprocess == Preprocess(size=32, resize=36, mean=(0.1, 0.2, 0.3), std=(0.5,))
    assert (loaded.name, loaded.class_name(3), loaded.class_name(99)) == ("w", "kind 3", "class 99")


def test_safetensors_metadata_that_do_not_fit_are_refused(net, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(plain(net), path, {"arch": json.dumps(CIFAR), "classes": json.dumps(["one"])})
    said = "1 class names were given, but the network has 10 outputs; give one for each, in the order of the outputs"
    assert message(path) == f"{path}: {said}"
    save_file(plain(net), path, {"arch": json.dumps(CIFAR), "mean": json.dumps("grey")})
    assert message(path).startswith(f"{path}: its metadata on preprocessing cannot be used")
    save_file(plain(net), path, {"format": "pt"})
    assert "does not say what network it belongs to; give arch (--arch)" in message(path)


def test_options_override_what_is_known(net, saved):
    loaded = load_model(saved(plain(net)), arch=CIFAR, size=48, mean=(0.5,), std=(0.2, 0.3, 0.4))
    assert loaded.preprocess == Preprocess(size=48, resize=48, mean=(0.5,), std=(0.2, 0.3, 0.4))


def test_a_checkpoint_of_another_network_names_what_differs(net, saved):
    path = saved(plain(net))
    told = message(path, arch="cifar-resnet14")
    assert told == (
        f"{path} does not fit cifar-resnet14: "
        "missing layer1.1.conv1.weight, layer1.1.bn1.weight, layer1.1.bn1.bias and "
        "27 more. Give the architecture it was trained with"
    )
    told = message(path, arch="resnet18")
    assert "unexpected layer3.0.conv1" not in told
    assert "missing layer1.1.conv1.weight" in told
    assert "conv1.weight is (16, 3, 3, 3), not (64, 3, 7, 7)" in told
    assert len(told) < 700


def test_unexpected_tensors_are_named(net, saved):
    told = message(saved({**plain(net), "head.extra": torch.ones(1)}), arch=CIFAR)
    assert "unexpected head.extra. Give" in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(net, saved, value):
    net.fc.bias.data[3] = value
    path = saved(plain(net))
    assert message(path, arch=CIFAR).startswith(f"{path}: fc.bias holds NaN or infinite weights")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"epoch": 3, "lr": 0.1}, "no tensors under state_dict, model, model_state_dict, net, nor at its top"),
        ({"epoch": 3, "lr": 0.1}, "level; it holds epoch, lr"),
        ({}, "it holds nothing"),
        ([1, 2], "holds a list, not a state dict; save model.state_dict()"),
    ],
)  # fmt: skip
def test_a_file_without_tensors_says_what_it_holds(saved, content, told):
    assert told in message(saved(content), arch=CIFAR)


@pytest.mark.parametrize("name", ["resnet20-12fca82f", "resnet56-4bfd9763"])
def test_third_party_cifar_networks_compute_what_their_authors_wrote(shared, x, name):
    """Against the network of the paper written out with functions, on the tensors as they lie in the file."""
    path = shared / "models" / f"{name}.th"
    loaded = load_model(path, arch="cifar-" + name.split("-")[0])
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    expected = cifar_option_a({key.removeprefix("module."): value for key, value in state.items()}, x)
    assert (outputs(loaded, x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert loaded.preprocess == Preprocess(size=32, resize=32)
    assert loaded.classes is not None
    assert loaded.classes[3] == "cat"


def cifar_option_a(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def conv_bn(x, conv, bn, stride=1):
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        return F.batch_norm(x, *(state[f"{bn}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    x = F.relu(conv_bn(x, "conv1", "bn1"))
    for block in sorted({re.match(r"layer\d\.\d+", key)[0] for key in state if key.startswith("layer")}):
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        main = F.relu(conv_bn(x, f"{block}.conv1", f"{block}.bn1", stride))
        main = conv_bn(main, f"{block}.conv2", f"{block}.bn2")
        missing = main.shape[1] - x.shape[1]
        x = F.relu(main + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing // 2, missing // 2)))
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


def test_third_party_cifar_network_reaches_its_accuracy(shared):
    """81.0 % on all 10,000 test pictures of this file (JPEG of quality 75; its authors state 91.7 % without)."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = parquet.read_table(shared / "data/cifar10/test.parquet").to_pylist()[::20]
    loaded = load_model(shared / "models/resnet20-12fca82f.th", arch="cifar-resnet20")
    pictures = torch.stack([loaded.preprocess(read_image(row["image"])) for row in rows])
    right = outputs(loaded, pictures).argmax(1) == torch.tensor([row["label"] for row in rows])
    assert right.float().mean() > 0.77


def test_arch_without_a_file_is_refused():
    with pytest.raises(UsageError, match=r"arch='resnet18' goes with a checkpoint; 'resnet18' is not a file"):
        load_model("resnet18", arch="resnet18")
