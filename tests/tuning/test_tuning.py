"""Choosing a reading: the arithmetic of the choice, images that stay apart, and the file that comes of it."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn

from relprop.cifar import cifar_resnet
from relprop.core.capture import capture
from relprop.core.graph.separators import find_separators
from relprop.data import Sample, open_dataset
from relprop.errors import UsageError
from relprop.explainers import EXPLAINERS
from relprop.explainers.cuts import LayerWeights
from relprop.images import Preprocess
from relprop.models import LoadedModel
from relprop.tuning import Candidate, Settings, cross_validate, grid, require_disjoint, split_samples, tune


def samples(count, classes=2):
    return [Sample(f"picture-{k:02d}", k % classes) for k in range(count)]


def test_each_fold_is_scored_by_the_choice_made_without_it():
    """One image likes candidate 1 so much that it decides the choice, but for its own fold."""
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 8.0]])
    found = cross_validate(scores, folds=4)
    assert found.choice == 1
    assert found.held_out == (0.0, 0.0, 0.0, 1.0)
    assert sorted(found.choices) == [0, 1, 1, 1]
    assert found.mean == 0.25
    assert found.error == pytest.approx(0.25)
    for folds in (1, 5):
        with pytest.raises(UsageError, match=f"4 images takes 2 to 4 folds, not {folds}"):
            cross_validate(scores, folds)


def test_no_image_is_both_chosen_on_and_reported():
    everything = samples(20)
    selection, report = split_samples(everything, 8, 12, seed=3)
    assert not {s.id for s in selection} & {s.id for s in report}
    assert {s.id for s in selection} | {s.id for s in report} == {s.id for s in everything}
    assert [sum(s.label for s in part) for part in (selection, report)] == [4, 6]  # balanced
    with pytest.raises(UsageError, match="of 20 images 8 are to choose on: that leaves 12 to report on, not 13"):
        split_samples(everything, 8, 13)


def test_images_that_a_reference_was_chosen_on_are_not_reported():
    everything = samples(20)
    used = {s.id for s in everything[:6]}
    selection, report = split_samples(everything, 8, 6, 3, used)
    assert not {s.id for s in report} & (used | {s.id for s in selection})
    assert selection == split_samples(everything, 8, 6, 3)[0]
    with pytest.raises(UsageError, match="and layer weights among the references were chosen on 6: that leaves"):
        split_samples(everything, 8, 12, 3, used)
    with pytest.raises(UsageError, match="21 images to choose on are more than the 20 there are"):
        split_samples(everything, 21, 1)


def test_reporting_an_image_of_the_selection_is_an_error():
    require_disjoint(["a", "b"], ["c"])
    with pytest.raises(
        UsageError, match=r"1 image.* reported that the choice was made on, such as b; .* report others"
    ):
        require_disjoint(["a", "b"], ["b", "c"])


def test_the_grid_reads_each_late_part_once_with_each_width_and_share():
    cuts = find_separators(capture(cifar_resnet(14, width=4).eval(), torch.zeros(1, 3, 32, 32)))
    found = grid(cuts, ("paper", "epsilon"), (0.0, 0.25), (0.0, 1.6))
    late = [f"{name}{width}" for name in ("last-map", "late", "late-blocks") for width in ("", "~1.6")]
    expected = [text for name in late for text in (f"1*{name}", f"0.75*{name}+0.25*input~1.6")]
    assert [c.weights for c in found] == [*expected, "1*input~1.6"] * 2
    assert found[0] == Candidate("paper", "1*last-map")
    assert found[-1].composite == "epsilon"
    assert found[3].by_layer == {"last-map~1.6": 0.75, "input~1.6": 0.25}
    plain = find_separators(capture(tiny().model, torch.zeros(1, 3, 16, 16)))
    assert [c.weights for c in grid(plain, ("paper",), (0.0,), (0.0,))] == ["1*late-blocks", "1*input"]


@pytest.fixture
def pictures(tmp_path):
    for k in range(8):
        colour = ((40 + 25 * k) % 256, 200 - 20 * k, 90)
        image = Image.new("RGB", (16, 16), colour)
        image.paste((255, 255, 255), (k, k, k + 6, k + 6))
        image.save(tmp_path / f"{k % 2}_{k}.png")
    return open_dataset(f"folder:{tmp_path}")


def tiny():
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.ReLU()
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    return LoadedModel(model, "tiny", Preprocess(16), ("no", "yes"), "made here")


def test_tuning_chooses_measures_and_writes_down_how(pictures, tmp_path):
    composites = ("paper", "paper:classifier=mean-subtracted")
    settings = Settings(
        4, 4, folds=2, step=0.25, composites=composites, shares=(0.0, 0.5), references=("lrp", "random")
    )
    seen = []
    tuned = tune(tiny(), pictures, settings, lambda what, images: seen.append((what, images)))
    assert seen == [("choosing", 4), ("reporting", 4)]
    assert len(tuned.tried) == 2 * (2 * 2 + 1)
    assert tuned.tried[0][0] == Candidate(tuned.weights.composite, tuned.weights.text)
    assert [mean for _, mean in tuned.tried] == sorted((mean for _, mean in tuned.tried), reverse=True)
    assert [line.explainer for line in tuned.report] == ["chosen", "lrp", "random"]
    assert tuned.report[0].difference == 0
    assert tuned.report[1].difference == pytest.approx(tuned.report[0].mean - tuned.report[1].mean, abs=1e-6)

    written = json.loads(tuned.weights.save(tmp_path / "tuned.json").read_text())["provenance"]
    assert len(set(written["selection"]) | set(written["report"]["images"])) == 8
    assert written["protocol"]["step"] == 0.25
    assert written["model"] == "tiny"
    assert len(written["candidates"]) == 10
    assert written["settings"]["widths"] == [0.0, 1.6]
    assert LayerWeights.load(tmp_path / "tuned.json") == tuned.weights

    explainer = EXPLAINERS.build(f"lrp-cuts:weights={tmp_path / 'tuned.json'}")
    assert explainer.chosen == tuned.weights


def test_the_reported_number_is_that_of_the_file(pictures, tmp_path):
    from relprop.metrics import insertion_deletion

    loaded = tiny()
    tuned = tune(loaded, pictures, Settings(4, 4, folds=2, step=0.25, references=()))
    explainer = EXPLAINERS.build(f"lrp-cuts:weights={tuned.weights.save(tmp_path / 'tuned.json')}")
    reported = [s for s in pictures.samples if s.id in tuned.weights.provenance["report"]["images"]]
    x = torch.stack([loaded.preprocess(pictures.load(s)) for s in reported])
    target = loaded.model(x).argmax(1)
    found = insertion_deletion(
        loaded.model, x, explainer(loaded.model, x, target), target, preprocess=loaded.preprocess, step=0.25
    )
    assert tuned.report[0].mean == pytest.approx(float(found["id"].mean()), abs=1e-6)


def test_settings_that_cannot_be_are_errors(pictures):
    with pytest.raises(UsageError, match="report must be at least 1, not 0"):
        Settings(report=0)
    with pytest.raises(UsageError, match="4 images take 2 to 4 folds, not 5"):
        tune(tiny(), pictures, Settings(4, 4))
