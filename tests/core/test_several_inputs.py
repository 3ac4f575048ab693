"""Networks of several inputs: one relevance each, together the score; constants beside them get none."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.core.result.relevance import Relevance
from relprop.core.result.several import Relevances
from relprop.errors import InputError, UsageError

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
GAP = {torch.float32: 1e-6, torch.float64: 1e-12}


class Pair(nn.Module):
    """An image and a map of depth, of another size, seen by a branch each; the depth may be weighed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.depth = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(16, 5)
        self.eval()

    def forward(self, image: Tensor, depth: Tensor, weight: float | Tensor = 1.0) -> Tensor:
        seen = [self.image(image).relu().mean((2, 3)), weight * self.depth(depth).relu().mean((2, 3))]
        return self.head(torch.cat(seen, 1))


def inputs(dtype: torch.dtype = torch.float32, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((count, 3, 16, 16), (count, 1, 12, 20))
    return tuple(torch.rand(shape, generator=generator).to(dtype) for shape in shapes)


def total(result: Relevances) -> Tensor:
    return result.totals.sum(-1)


class Sums(nn.Module):
    """y_k = Σ_i a_i A_ik + b B_k, small enough to explain by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(1, 2, bias=False)
        self.a.weight.data = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
        self.b.weight.data = torch.tensor([[4.0], [1.0]])
        self.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) + self.b(b)


def test_a_sum_of_two_inputs_by_hand():
    """Class 0 of a = (2, 1), b = 1 scores 2·1 + 1·3 + 1·4 = 9; the join splits it as 5 : 4, and a's 5 as 2 : 3."""
    given = (torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]]))
    model, given = Sums().double(), tuple(x.double() for x in given)
    result = relprop.explain(model, given, target=0, start="logit", composite=relprop.paper(first="image"))
    a, b = result.relevance
    assert a.tolist() == [[2.0, 3.0]]
    assert b.tolist() == [[4.0]]
    assert result.totals.tolist() == [[5.0, 4.0]]
    assert result.score.tolist() == [9.0]


@DTYPES
def test_two_inputs_share_the_score(dtype):
    model, given = Pair().to(dtype), inputs(dtype)
    result = relprop.explain(model, given)
    assert isinstance(result, Relevances)
    assert [part.shape for part in result.relevance] == [x.shape for x in given]
    with torch.no_grad():
        probability = model(*given).softmax(1).amax(1)
    torch.testing.assert_close(result.score, probability)
    assert float(((total(result) - result.score) / result.score).abs().max()) < GAP[dtype]
    assert result.ledger.gap < GAP[dtype]
    assert (result.totals > 0.01).all()


def test_a_branch_alone_gets_what_it_gets_beside_the_other():
    """With the other input a constant, a branch's map is what it was, and the constant's share is absorbed."""
    model, (image, depth) = Pair().double(), inputs(torch.float64)
    both = relprop.explain(model, {"depth": depth, "image": image}, target=3)
    assert [*both.relevance] == ["depth", "image"]
    for name, given, fixed in (("image", image, {"depth": depth}), ("depth", depth, {"image": image})):
        for keys in (fixed, {["image", "depth"].index(key): value for key, value in fixed.items()}):
            alone = relprop.explain(model, given, target=3, fixed=keys)
            assert isinstance(alone, Relevance)
            torch.testing.assert_close(alone.relevance, both.relevance[name])
            assert alone.ledger.gap < 1e-12
            absorbed = alone.score - alone.relevance.flatten(1).sum(1)
            other = both.totals[:, [*both.names].index(next(iter(fixed)))]
            torch.testing.assert_close(absorbed, other)
        torch.testing.assert_close(
            torch.tensor(alone.ledger.absorbed).double(), (absorbed / alone.score).max().double()
        )


def test_a_tuple_behind_a_constant_and_a_number_among_the_arguments():
    model, (image, depth) = Pair().double(), inputs(torch.float64)
    expected = relprop.explain(model, (image, depth), fixed={"weight": 0.25}, target=1)
    with torch.no_grad():
        torch.testing.assert_close(expected.logits, model(image, depth, 0.25))
    torch.testing.assert_close(relprop.explain(model, (image, depth), fixed={2: 0.25}, target=1).score, expected.score)
    weight = torch.tensor([[0.25], [0.5]], dtype=torch.float64)  # one for each image
    per_image = relprop.LRP(model, chunk=1)((image, depth), 1, fixed={"weight": weight})
    with torch.no_grad():
        torch.testing.assert_close(per_image.logits, model(image, depth, weight))
    torch.testing.assert_close(per_image.relevance[1][0], expected.relevance[1][0])


def test_the_same_images_one_by_one_and_all_at_once():
    model, given = Pair(), inputs(count=5)
    whole = relprop.LRP(model)(given, target=[0, 1, 2, 3, 4])
    parts = relprop.LRP(model, chunk=2)(given, target=[0, 1, 2, 3, 4])
    for one, other in zip(whole.relevance, parts.relevance, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
    several = relprop.LRP(model)(given, target=[[0, 1]] * 5)
    assert [part.shape for part in several.relevance] == [(5, 2, 3, 16, 16), (5, 2, 1, 12, 20)]
    assert several.totals.shape == (5, 2, 2)
    torch.testing.assert_close(several.relevance[0][0, 0], whole.relevance[0][0], rtol=1e-5, atol=1e-8)


class Twins(nn.Module):
    """One network for both images, which may write to what it is given."""

    def __init__(self, writes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten()), nn.Linear(2 * 6 * 36, 3)
        self.writes = writes
        self.eval()

    def forward(self, *views: Tensor) -> Tensor:
        if self.writes:
            views[0][:, 0] = 0.5
            views[1].mul_(2)
        return self.head(torch.cat([self.net(view) for view in views], 1))


@pytest.mark.parametrize("writes", [False, True])
def test_one_network_reads_both(writes):
    views = tuple(torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double())
    before = [view.clone() for view in views]
    result = relprop.explain(Twins(writes).double(), views, target=2)
    assert [torch.equal(view, kept) for view, kept in zip(views, before, strict=True)] == [True, True]
    assert result.names == ("input0", "input1")
    assert result.ledger.gap < 1e-12
    lost = (result.score - total(result)).abs()
    assert (lost < 1e-12).all()
    assert bool((result.relevance[0][:, 1:] != 0).any())
    assert bool((result.relevance[0][:, 0] == 0).all()) == writes  # a constant was written over the first channel
    same = relprop.explain(Twins(writes).double(), (views[0], views[0].clone()), target=2)
    assert same.names == result.names


def test_an_input_that_is_not_read_gets_nothing():
    class Deaf(Pair):
        def forward(self, image, depth):
            return super().forward(image, torch.ones(len(image), 1, 8, 8))

    result = relprop.explain(Deaf(), inputs(), target=1)
    assert result.relevance[1].abs().sum() == 0
    assert result.relevance[0].abs().sum() > 0


def test_layers_inputs_and_composites_of_a_network_of_two_inputs():
    model, given = Pair(), inputs()
    result = relprop.LRP(model, keep=["image", "inputs.depth"])(given, target=1)
    torch.testing.assert_close(result.at("inputs.depth"), result.relevance[1])
    assert result.at("image", "output").shape == (2, 8, 14, 14)
    for composite in (relprop.epsilon(), relprop.gamma(), relprop.original()):
        assert relprop.explain(model, given, composite=composite, target=1).ledger.gap < 1e-6
    first, second = relprop.LRP(model).explain_each(given, [relprop.paper(), relprop.epsilon()], 1)
    torch.testing.assert_close(first.relevance, result.relevance)
    assert (second.composite, second.names) == ("epsilon", ("image", "depth"))


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated")
def test_a_scripted_network_of_two_inputs():
    given = inputs()
    expected = relprop.explain(Plain(), given, target=1)
    scripted = relprop.explain(torch.jit.script(Plain()), {"depth": given[1], "image": given[0]}, target=1)
    torch.testing.assert_close(scripted["image"].relevance, expected["image"].relevance)


class Plain(Pair):
    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        seen = [self.image(image).relu().mean((2, 3)), self.depth(depth).relu().mean((2, 3))]
        return self.head(torch.cat(seen, 1))


def test_saved_and_loaded(tmp_path):
    for given in (inputs(), dict(zip(("image", "depth"), inputs(), strict=True))):
        result = relprop.LRP(Pair(), keep=["inputs.depth"])(given, target=[[1, 2], [3, 4]])
        loaded = relprop.Relevances.load(result.save(tmp_path))
        assert type(loaded.relevance) is type(result.relevance)
        assert (loaded.names, loaded.shapes) == (result.names, result.shapes)
        for name in result.names:
            assert torch.equal(loaded[name].relevance, result[name].relevance)
        assert torch.equal(loaded.at("inputs.depth"), result["depth"].relevance)
        assert loaded.ledger.gap == result.ledger.gap
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for key, wrong in (
        ("shapes", [[3, 16, 16]]),
        ("shapes", 3),
        ("names", ["image"]),
        ("form", 7),
        ("shapes", [["a"], [1]]),
    ):
        spoilt = {**manifest, "inputs": {**manifest["inputs"], key: wrong}}
        (tmp_path / "manifest.json").write_text(json.dumps(spoilt))
        with pytest.raises(InputError, match="holds no result that can be read: its inputs"):
            relprop.Relevances.load(tmp_path)
    with pytest.raises(InputError, match=r"relevance of several inputs; read it with relprop.Relevances.load"):
        Relevance.load(tmp_path)
    relprop.explain(Pair(), inputs()[0], fixed={"depth": inputs()[1]}).save(tmp_path)
    with pytest.raises(InputError, match=r"relevance of one input; read it with relprop.Relevance.load"):
        relprop.Relevances.load(tmp_path)


def test_what_a_result_of_two_inputs_says_of_itself():
    result = relprop.explain(Pair(), inputs(), target=4)
    assert repr(result).startswith("Relevances of image 3 x 16 x 16, depth 1 x 12 x 20: Relevance(2 x 1008 by paper")
    assert torch.equal(result[1].relevance, result["depth"].relevance)
    assert torch.equal(result[-1].relevance, result["depth"].relevance)
    assert [part.heatmap.shape for part in result] == [part.shape for part in result.heatmap]
    assert torch.equal(result.probability, result.score)
    assert (result.target.tolist(), result.what, result.composite) == ([4, 4], "", "paper")
    with pytest.raises(UsageError, match="there is no input 'dept'; there are image, depth"):
        result["dept"]


@pytest.mark.parametrize(
    ("given", "fixed", "error", "message"),
    [
        ((), None, InputError, "names no input at all; give a tensor, a tuple of tensors, or a dict"),
        ([torch.rand(1, 3, 8, 8)], None, InputError, "several inputs are a tuple of tensors or a dict of them by name"),
        (inputs()[:1], None, InputError, r"image of shape \(2, 3, 16, 16\): .*missing.*arguments are image, depth"),
        ({"image": inputs()[0], "dept": inputs()[1]}, None, InputError, "unexpected keyword.*are image, depth"),
        ((inputs()[0], inputs(count=3)[1]), None, InputError, r"different sizes \(image 2, depth 3\)"),
        ((inputs()[0], inputs()[1].double()), None, InputError, "depth is float64 and the model float32"),
        (
            {"image": inputs()[0], "depth": torch.ones(2, 1, 9, 9, dtype=torch.long)},
            None,
            InputError,
            "depth must hold floating-point numbers, not torch.int64.*fixed={'depth': ...}",
        ),
        ({"image": inputs()[0], "depth": inputs()[1]}, {1: inputs()[1]}, UsageError, "'depth' is given twice"),
        (inputs()[0], {2.5: 1}, UsageError, "an argument is named by its name or position, not by 2.5"),
    ],
)
def test_messages(given, fixed, error, message):
    with pytest.raises(error, match=message):
        relprop.explain(Pair(), given, fixed=fixed)
