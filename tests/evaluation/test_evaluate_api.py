"""`relprop.evaluation.evaluate`: with the real explainers and metrics."""

from __future__ import annotations

import pytest
import torch

from relprop.data import Dataset, Sample, open_dataset
from relprop.errors import InputError, UnknownNameError, UsageError
from relprop.evaluation import ModelSpec, Plan, evaluate
from relprop.evaluation.local import run
from relprop.explainers import EXPLAINERS, POST
from relprop.explainers.cuts import LayerWeights
from relprop.images import Preprocess
from relprop.metrics import insertion_deletion
from relprop.models import load_model
from tiny import make, pictures

PREPARE = Preprocess(size=8, resize=8, mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def inputs():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 8, 8, generator=draw), torch.tensor([0, 1, 0, 1, 1])


def test_values_are_those_of_calling_explainer_and_metric_by_hand(inputs):
    net, (x, y) = make(), inputs
    posts = ("none", "quantize:8")
    rows = evaluate(net, inputs, ["lrp", "sobel"], post=posts, preprocess=PREPARE, batch=5, step=4, controls=False)
    target = net(x).argmax(1)
    assert len(rows) == 5 * 2 * 2 * 3
    for spec in ("lrp", "sobel"):
        for post in posts:
            heatmap = POST.build(post)(EXPLAINERS.build(spec)(net, x, target))
            by_hand = insertion_deletion(net, x, heatmap, target, y, preprocess=PREPARE, step=4)
            for name, expected in by_hand.items():
                found = [r.value for r in rows if (r.explainer, r.post, r.metric) == (spec, post, name)]
                assert found == pytest.approx(expected.tolist(), abs=1e-6)
                assert {r.target for r in rows if r.sample == "000003"} == {int(target[3])}


def test_a_constant_map_scores_the_whole_and_the_blank_picture_under_the_papers_protocol(inputs):
    """Everything is tied: all pixels appear, and vanish, at the first step."""
    net, (x, y) = make(), inputs
    rows = evaluate(net, inputs, "constant", protocol="paper-protocol", preprocess=PREPARE)
    whole = net(x).softmax(1).gather(1, y[:, None])[:, 0].tolist()
    blank = net(torch.full((1, 3, 8, 8), -2.0)).softmax(1)[0, y].tolist()  # (0 - 0.5) / 0.25
    constant = [row for row in rows if row.explainer == "constant"]
    assert [r.value for r in constant if r.metric == "insertion"] == pytest.approx(whole, abs=1e-6)
    assert [r.value for r in constant if r.metric == "deletion"] == pytest.approx(blank, abs=1e-6)
    assert {(r.protocol, r.ties) for r in rows} == {("paper-protocol", "together")}
    assert {r.explainer for r in rows} == {"constant", "random"}


def test_pictures_that_an_explainer_was_chosen_on_are_left_out_whoever_made_it(tmp_path):
    dataset = open_dataset(f"folder:{pictures(tmp_path / 'data', 9)}")
    selection = {sample.id: sample.label for sample in dataset.samples[:4]}
    reading = LayerWeights("1*input", "paper", {"selection": selection}).save(tmp_path / "tuned.json")
    spec = f"lrp-cuts:weights={reading}"
    fresh = {sample.id for sample in dataset.samples[4:]}
    for explainers in (spec, {"mine": EXPLAINERS.build(spec)}):
        rows = evaluate(make(), dataset, explainers, preprocess=PREPARE, step=32)
        assert {row.sample for row in rows} == fresh
    assert len({row.sample for row in evaluate(make(), dataset, "lrp", preprocess=PREPARE, step=32)}) == 9


def test_a_run_on_disk_gives_the_same_rows(tmp_path):
    root = pictures(tmp_path / "data", 9)
    given = {"metrics": ("insertion-deletion", "conservation-gap"), "post": ("none", "smooth:1")}
    loaded = load_model("tiny:make", size=8, mean=(0.5,), std=(0.25,))
    rows = evaluate(loaded, f"folder:{root}", ("lrp",), batch=4, samples=7, seed=3, **given)
    model = ModelSpec("tiny:make", size=8, mean=(0.5,), std=(0.25,))
    threads = torch.get_num_threads()
    plan = Plan(model, f"folder:{root}", rows.plan.explainers, **given, samples=7, seed=3, batch=4, threads=threads)
    assert run(plan, tmp_path / "run").rows().collect().equals(rows.to_polars())
    assert len(rows) == 7 * 3 * 2 * 4


def test_amp_scores_masked_pictures_in_bfloat16_and_says_so(inputs):
    given = {"preprocess": PREPARE, "step": 4, "metrics": ("insertion-deletion", "conservation-gap")}
    exact, rough = (evaluate(make(), inputs, "lrp", **given, amp=amp) for amp in (False, True))
    pairs = [(a, b) for a, b in zip(exact, rough, strict=True) if a.explainer == "lrp"]
    masked = [(a.value, b.value) for a, b in pairs if a.metric != "conservation-gap"]
    assert [a for a, _ in masked] == pytest.approx([b for _, b in masked], abs=0.01)
    assert masked != [(a, a) for a, _ in masked], "bfloat16 has 8 bits"
    assert all(a.value == b.value for a, b in pairs if a.metric == "conservation-gap")
    assert "masked pictures scored in bfloat16" in rough.summary().caption
    assert "bfloat16" not in exact.summary().caption


def test_explainers_of_ones_own(inputs):
    mine = {"mine": lambda model, x, target: -x.sum(1), "sobel": EXPLAINERS.build("sobel")}
    rows = evaluate(make(), inputs, mine, preprocess=PREPARE)
    assert {row.explainer for row in rows} == {"mine", "sobel", "constant", "random"}
    assert all(row.error is None for row in rows)


def test_curves_are_kept_on_demand(inputs):
    net, (x, _) = make(), inputs
    kept = list(evaluate(net, inputs, "sobel", preprocess=PREPARE, curves=True, step=16, controls=False))
    insertion = [row for row in kept if row.metric == "insertion"]
    assert [len(row.curve) for row in insertion] == [5] * 5  # 0, 16, 32, 48, 64 pixels
    whole = net(x).softmax(1).amax(1).tolist()
    assert [row.curve[-1] for row in insertion] == pytest.approx(whole, abs=1e-6)
    for row in insertion:  # trapezoids by hand
        a, b, c, d, e = row.curve
        assert row.value == pytest.approx((a / 2 + b + c + d + e / 2) / 4, abs=1e-6)
    assert all(row.curve is None for row in kept if row.metric == "id")
    assert all(row.curve is None for row in evaluate(net, inputs, "sobel", preprocess=PREPARE))


def test_metrics_with_options_have_names_of_their_own(inputs):
    rows = evaluate(
        make(), inputs, "sobel", metrics=("insertion-deletion:fill=blur", "insertion-deletion"), preprocess=PREPARE
    )
    names = {row.metric for row in rows}
    assert names == {"insertion", "deletion", "id", "insertion:fill=blur", "deletion:fill=blur", "id:fill=blur"}
    assert len(rows) == len({(r.sample, r.explainer, r.metric) for r in rows}) == 5 * 3 * 6


def test_boxes_reach_the_metrics_that_ask_for_them():
    """The object is the right half of each picture, where the map `right` has all of its relevance."""
    from PIL import Image

    samples = tuple(Sample(str(at), at % 2, boxes=((4.0, 0.0, 4.0, 8.0),)) for at in range(3))
    dataset = Dataset("doubles", samples, lambda sample: Image.new("RGB", (8, 8)), None)
    columns = torch.arange(8.0)
    half = {
        "right": lambda model, x, target: (columns >= 4).float().expand(len(x), 8, 8),
        "all": lambda model, x, target: torch.ones(len(x), 8, 8),
    }
    metrics = ("energy-in-box", "pointing-game")
    rows = evaluate(make(), dataset, half, metrics=metrics, preprocess=PREPARE, controls=False)
    assert [(r.explainer, r.metric, r.value) for r in rows if r.sample == "1"] == [
        ("right", "energy-in-box", 1.0),
        ("right", "pointing-game", 1.0),
        ("all", "energy-in-box", 0.5),
        ("all", "pointing-game", 0.5),
    ]
    with pytest.raises(UsageError, match="energy-in-box needs to know where the objects are"):
        evaluate(make(), (torch.zeros(1, 3, 8, 8), [0]), half, metrics="energy-in-box")


def test_samples_are_chosen_equally_by_class(inputs):
    rows = evaluate(make(), inputs, "sobel", samples=4, preprocess=PREPARE, controls=False)
    assert sorted(row.label for row in rows if row.metric == "id") == [0, 0, 1, 1]


def test_misuse_is_said_before_anything_is_computed(inputs):
    net, (x, y) = make(), inputs
    with pytest.raises(
        UsageError, match=r"'fair' fills with black, a colour, and nobody said how colours are normalised"
    ):
        evaluate(net, inputs, "sobel")
    assert len(evaluate(net, inputs, "sobel", protocol="fair:fill=mean", controls=False)) == 15
    with pytest.raises(UsageError, match="a module does not say how pictures become its inputs"):
        evaluate(net, Dataset("none", (), lambda sample: b""), "sobel")
    with pytest.raises(InputError, match=r"x is \(5, 3, 8, 8\) of torch\.float32, and there are 4 labels"):
        evaluate(net, (x, y[:4]), "sobel")
    with pytest.raises(UnknownNameError, match="did you mean 'sobel'"):
        evaluate(net, inputs, "sobell")
    with pytest.raises(UnknownNameError, match="no protocol is named 'papr'"):
        evaluate(net, inputs, "sobel", protocol="papr", preprocess=PREPARE)


def test_the_model_comes_back_as_it_was(inputs):
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluate(net, inputs, ("lrp", "grad-cam", "guided-backprop"), preprocess=PREPARE)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
