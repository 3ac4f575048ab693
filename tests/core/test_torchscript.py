"""TorchScript is explained as the model in Python that it was made of."""

from __future__ import annotations

import warnings

import pytest
import torch
from core_resnet import ResNet
from torch import Tensor, nn

import relprop
from relprop.core.graph.joins import find_joins
from tiny import Tiny, images

X = images(3)


class Attention(nn.Module):
    """A transformer of one block on patches, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), h], 1)
        normed = self.norm1(h)
        h = h + self.attention(normed, normed, normed, need_weights=False)[0]
        h = h + self.mlp(self.norm2(h))
        return self.head(h[:, 0])


def one_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18() -> nn.Module:
    return pytest.importorskip("torchvision").models.resnet18(num_classes=5)


def vit() -> nn.Module:
    net = pytest.importorskip("torchvision").models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(net.heads.head.weight, std=0.1)
    return net


def seeded(make):
    def made() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    return made


NETWORKS = {
    "residual": seeded(lambda: ResNet(4, 1, 5)),
    "resnet18": seeded(resnet18),
    "one convolution": seeded(one_convolution),
    "attention": seeded(Attention),
    "vit": seeded(vit),
}


def same(ours, theirs, rtol=1e-12):
    assert ours.ledger.gap < rtol
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize(
    ("way", "dtype", "rtol"),
    [("trace", torch.float64, 1e-12), ("script", torch.float32, 1e-5), ("frozen", torch.float64, 1e-12)],
)
@pytest.mark.parametrize("network", ["residual", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_torchscript_gives_what_the_python_model_gives(network, way, dtype, rtol):
    net = NETWORKS[network]().to(dtype)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    scripted = scripts(net, x, way)
    lrp, plain = relprop.LRP(scripted), relprop.LRP(net)
    result, expected = lrp(x), plain(x)
    same(result, expected, rtol)
    graph = lrp.graph(x)
    one = lrp(x[1:], target=result.target[1:])
    torch.testing.assert_close(one.relevance, result.relevance[1:], rtol=rtol, atol=rtol * 1e-2)
    kinds = [(j.skips, j.identities) for j in find_joins(graph).values()]
    assert kinds == [(j.skips, j.identities) for j in find_joins(plain.graph(x)).values()]
    assert len(kinds) == {"residual": 4, "resnet18": 8}[network]
    if way != "frozen":  # which folds batch norms
        assert [node.op for node in graph] == [node.op for node in plain.graph(x)]
        assert {"conv1", "layer1.0.conv1", "layer2.0.downsample.0", "fc"} <= {node.name for node in graph}
    if way == "trace":
        assert [node.name for node in graph] == [node.name for node in plain.graph(x)]
        torch.testing.assert_close(
            relprop.LRP(scripted, keep=["layer1.0"])(x).at("layer1.0"),
            relprop.LRP(net, keep=["layer1.0"])(x).at("layer1.0"),
            rtol=rtol,
            atol=rtol * 1e-2,
        )


def scripts(net, x, way):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
        made = torch.jit.trace(net, x, check_trace=False) if way == "trace" else torch.jit.script(net)
        return torch.jit.freeze(made) if way == "frozen" else made


@pytest.mark.parametrize("way", ["trace", "script", "frozen"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("network", ["one convolution", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_torchscript_that_was_saved_and_loaded_again(way, gradients, network, tmp_path):
    net = NETWORKS[network]().requires_grad_(gradients)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
        torch.jit.save(scripts(net, x, way), tmp_path / "net.pt")
        loaded = torch.jit.load(tmp_path / "net.pt")
    same(relprop.explain(loaded, x), relprop.explain(net, x), 1e-5)


@pytest.mark.parametrize("way", ["trace", "script"])
@pytest.mark.parametrize("network", ["attention", pytest.param("vit", marks=pytest.mark.slow)])
def test_scripted_attention(network, way):
    net = NETWORKS[network]().double()
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    same(relprop.explain(scripts(net, x, way), x), relprop.explain(net, x))


@pytest.mark.parametrize("branches", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_part_that_is_torchscript(branches):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.fc = Tiny(), nn.Linear(5, 3)

        def forward(self, x):
            h = self.inner(x).relu()
            return self.fc(-h if branches and x.mean() > 1e9 else h)

    torch.manual_seed(0)
    outer, x = Outer().eval().double(), X.double()
    plain = Outer().eval().double()
    plain.load_state_dict(outer.state_dict())
    outer.inner = scripts(outer.inner, x, "trace")
    lrp = relprop.LRP(outer)
    same(lrp(x), relprop.explain(plain, x))
    assert {"inner.conv1", "inner.bn2", "inner.add", "fc"} <= {node.name for node in lrp.graph(x)}
