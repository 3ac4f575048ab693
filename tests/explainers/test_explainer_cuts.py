"""The explainer that reads several cuts: what it sums to, where readings come from, what it refuses."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from explainer_networks import Plain, Residual, made

from relprop import LRP
from relprop.cifar import cifar_resnet
from relprop.core.composites.presets import two_sided
from relprop.core.result.enlarge import enlarge
from relprop.data import Sample, balanced, open_dataset
from relprop.errors import InputError, UnknownNameError, UsageError
from relprop.explainers import EXPLAINERS
from relprop.explainers.cuts import WEIGHTS, LayerWeights, LrpCuts, chosen_on

RULES = two_sided(late="gamma", classifier="contrast")


def small():
    torch.manual_seed(0)
    return cifar_resnet(8, shortcut="A", width=4).eval()


def pictures(count=3, side=32):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def test_the_default_reads_the_late_blocks_and_the_pixels_smoothed():
    model, x, target = small(), pictures(), torch.tensor([0, 4, 9])
    result = LRP(model, RULES, keep=["layer2", "layer3"])(x, target=target)
    cuts = [result.at("layer2").sum(1), result.at("layer3").sum(1)]
    late = sum(enlarge(cut, (32, 32), 1.6) for cut in cuts) / 2
    expected = 0.75 * late + 0.25 * enlarge(result.heatmap, (32, 32), 1.6)
    found = EXPLAINERS.build("lrp-cuts")(model, x, target)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert torch.allclose(found.sum((1, 2)), result.score, rtol=1e-5)


@pytest.mark.parametrize("network", [Plain, Residual])
def test_networks_without_blocks_are_read_at_their_last_map(network):
    model, x, target = made(network), pictures(side=12), torch.tensor([0, 1, 3])
    result = LRP(model, RULES, keep=["last-map"])(x, target=target)
    expected = result.combine({"last-map~1.6": 0.75, "input~1.6": 0.25})
    assert torch.allclose(EXPLAINERS.build("lrp-cuts")(model, x, target), expected, rtol=1e-5, atol=1e-8)


def test_options_replace_the_rules_of_the_reading():
    assert LrpCuts().chosen.composite == "two-sided:late=gamma:classifier=contrast"
    assert LrpCuts(classifier="epsilon").chosen.composite == "two-sided:late=gamma:classifier=epsilon"
    assert LrpCuts(composite="two-sided").chosen.composite == "two-sided"
    assert LrpCuts(composite="paper", split="symmetric").chosen.composite == "paper:split=symmetric"
    model, x, target = small(), pictures(), torch.tensor([0, 4, 9])
    plain = EXPLAINERS.build("lrp-cuts:weights=1*input:composite=paper")(model, x, target)
    assert torch.allclose(plain, EXPLAINERS.build("lrp")(model, x, target), rtol=1e-5, atol=1e-9)


def test_a_reading_goes_through_a_file(tmp_path):
    reading = LayerWeights("0.5*layer2.0+0.5*input", "paper:classifier=epsilon", {"selection": {"a": 0, "b": 1}})
    path = reading.save(tmp_path / "mine.json")
    assert LayerWeights.load(path) == reading
    assert LayerWeights.load(path).provenance == {"selection": {"a": 0, "b": 1}}
    model, x, target = small(), pictures(), torch.tensor([0, 4, 9])
    explainer = EXPLAINERS.build(f"lrp-cuts:weights={path}")
    spelled = EXPLAINERS.build("lrp-cuts:weights=0.5*layer2.0+0.5*input:composite=paper:classifier=epsilon")
    found = explainer(model, x, target)
    assert torch.equal(found, spelled(model, x, target))
    path.unlink()  # what was read travels with the explainer
    assert torch.equal(pickle.loads(pickle.dumps(explainer))(model, x, target), found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: Expecting value"),
        ("[]", "holds a list, not a JSON object"),
        ('{"format": "relprop layer weights 9"}', "has format 'relprop layer weights 9'"),
        ('{"format": "relprop layer weights 1"}', "lacks its weights, composite or provenance"),
    ],
)
def test_a_file_that_holds_no_reading_is_an_error(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        EXPLAINERS.build(f"lrp-cuts:weights={path}")


def test_a_reading_that_nobody_knows_is_an_error():
    with pytest.raises(
        UnknownNameError, match=r"no set of layer weights is named 'defualt'; did you mean 'default'.*or weights as"
    ):
        EXPLAINERS.build("lrp-cuts:weights=defualt")
    with pytest.raises(UsageError, match="must add up to 1"):
        EXPLAINERS.build("lrp-cuts:weights=0.5*input")
    with pytest.raises(UsageError, match=r"'layer1.0.conv1' is no separator layer that holds a map"):
        EXPLAINERS.build("lrp-cuts:weights=1*layer1.0.conv1")(small(), pictures(), torch.tensor([0, 1, 2]))


def test_readings_know_the_images_that_they_were_chosen_on():
    reading = LayerWeights("1*input", "paper", {"selection": {"a": 0, "b": 1}})
    assert reading.chosen_on([Sample("a", 0), Sample("c", 1)]) == {"a"}
    assert reading.chosen_on([Sample("c", 0)]) == set()
    assert reading.chosen_on([Sample("a", 0), Sample("b", 0)]) == set()  # another data set with names alike
    assert LayerWeights("1*input").chosen_on([Sample("a", 0)]) == set()


def test_shipped_readings_are_not_reported_on_the_images_that_they_were_chosen_on():
    noted = WEIGHTS.build("default").provenance["selection"]
    assert len(noted) == 247 + 40 + 200
    samples = [Sample(name, label) for name, label in noted.items() if name.startswith("test/")]
    assert len(samples) == 247
    explainers = [EXPLAINERS.build(spec) for spec in ("lrp-cuts:split=symmetric", "lrp")]
    assert chosen_on(explainers, [*samples, Sample("test/new", 3)]) == {s.id for s in samples}


def test_the_draws_of_the_shipped_selection_can_be_repeated(shared):
    dataset = open_dataset(f"parquet:{shared / 'data/cifar10/test.parquet'}")
    draws = [balanced(dataset.samples, *draw) for draw in ((48, 101), (200, 2026))]
    assert WEIGHTS.build("default").chosen_on(dataset.samples) == {s.id for draw in draws for s in draw}
    pictures = open_dataset(f"folder:{shared / 'data/imagenet-sample-450'}").samples
    first = sorted(pictures, key=lambda sample: hashlib.sha256(sample.id.encode()).hexdigest())[:200]
    assert WEIGHTS.build("default").chosen_on(pictures) == {s.id for s in first}
