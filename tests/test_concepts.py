"""Reference images of channels: what a run folder holds, that it resumes, and the channels of an explanation."""

from __future__ import annotations

import json
import re

import pytest
import torch

import commands
from relprop import LRP
from relprop.concepts import concepts_of, find_references
from relprop.data import open_dataset
from relprop.errors import RunError, UsageError
from relprop.images import Preprocess
from relprop.models import LoadedModel
from tiny import OPTIONS, make, pictures

PREPARE = Preprocess(size=8, resize=8, mean=(0.5,), std=(0.25,))
LAYER = "relu@1"


def loaded() -> LoadedModel:
    return LoadedModel(make(), "tiny", PREPARE, ("cat", "dog"), "tiny")


@pytest.fixture
def data(tmp_path):
    for name in ("cat", "dog"):
        pictures(tmp_path / "data" / name, 5)
    return open_dataset(f"folder:{tmp_path / 'data'}")


def slow(data) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance and activation (S, C), a picture at a time: the activation from the network's own code."""
    model, relevance, activation = make(), [], []
    for sample in data.samples:
        x = PREPARE(data.load(sample))[None]
        relevance.append(LRP(model, keep=[LAYER])(x).at(LAYER).sum((2, 3))[0])
        activation.append(model.maps(x).sum((2, 3))[0].detach())
    return torch.stack(relevance), torch.stack(activation)


def test_references_are_the_samples_with_most_of_a_channel(data, tmp_path):
    found = find_references(loaded(), data, LAYER, tmp_path / "run", batch=4)
    relevance, activation = slow(data)
    torch.testing.assert_close(found.relevance, relevance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.activation, activation, rtol=1e-4, atol=1e-6)
    for by, values in (("relevance", relevance), ("activation", activation)):
        for channel in range(4):
            most = found.most(by, channel, 3)
            best = values[:, channel].topk(3).values
            torch.testing.assert_close(torch.tensor([value for _, value in most]), best, rtol=1e-4, atol=1e-6)
            first = data.samples.index(most[0][0])
            torch.testing.assert_close(values[first, channel], best[0], rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match=r"no channel 4; channels are 0 to 3"):
        found.most("relevance", 4)


def test_a_run_that_was_broken_off_goes_on_where_it_was(data, tmp_path):
    root = tmp_path / "run"
    first = find_references(loaded(), data, LAYER, root, batch=4)
    shards = sorted((root / "shards").iterdir())
    assert len(shards) == 3
    shards[0].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-7])  # damaged
    kept = shards[1].stat().st_mtime_ns
    again = find_references(loaded(), data, LAYER, root, batch=4)
    assert shards[1].stat().st_mtime_ns == kept
    assert torch.equal(first.relevance, again.relevance)
    assert torch.equal(first.activation, again.activation)
    assert sorted((root / "shards").iterdir()) == shards


def test_a_folder_of_another_run_is_refused(data, tmp_path):
    root = tmp_path / "run"
    find_references(loaded(), data, LAYER, root)
    with pytest.raises(RunError, match=r"holds another run \(layer was relu@1, is relu\)"):
        find_references(loaded(), data, "relu", root)
    other = LoadedModel(make(3), "tiny", PREPARE, None, "tiny")
    with pytest.raises(RunError, match="weights was"):
        find_references(other, data, LAYER, root)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is no run of relprop concepts"):
        find_references(loaded(), data, LAYER, tmp_path / "other")
    assert json.loads((root / "manifest.json").read_text())["layer"] == LAYER


def test_the_channels_of_a_picture_sum_to_its_map(data, tmp_path):
    references = find_references(loaded(), data, LAYER, tmp_path / "run")
    lrp = LRP(make(), keep=[LAYER])
    x = PREPARE(data.load(data.samples[3]))[None]
    whole, concepts = concepts_of(lrp, x, 1, references)
    assert int(whole.target[0]) == 1
    assert len(concepts) == 4  # all that the layer has
    torch.testing.assert_close(sum(c.heatmap for c in concepts), whole.heatmap[0], rtol=1e-4, atol=1e-7)
    assert sum(c.share for c in concepts) == pytest.approx(1, abs=1e-5)
    assert [c.relevance for c in concepts] == sorted((c.relevance for c in concepts), reverse=True)
    torch.testing.assert_close(
        concepts[0].heatmap, lrp(x, 1, through={LAYER: concepts[0].channel}).heatmap[0], rtol=1e-4, atol=1e-7
    )
    assert all(len(c.references) == 8 for c in concepts)


def test_the_channels_of_a_class_are_those_with_most_relevance_on_average(data, tmp_path):
    references = find_references(loaded(), data, LAYER, tmp_path / "run")
    index = int(references.predicted[0])
    mean, sample = references.of_class(index)
    rows = [at for at, label in enumerate(references.predicted.tolist()) if label == index]
    torch.testing.assert_close(mean, references.relevance[rows].double().mean(0))
    assert references.samples.index(sample) in rows
    with pytest.raises(UsageError, match="predicts class 7 for none of the 10 samples"):
        references.of_class(7)


def test_a_layer_that_there_is_not_begins_no_run(data, tmp_path):
    with pytest.raises(UsageError, match="no layer 'layer9'"):
        find_references(loaded(), data, "layer9", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def concepts_command(*arguments: object, code: int = 0):
    return commands.run("concepts", *arguments, "--layer", LAYER, *OPTIONS, code=code)


@pytest.mark.usefixtures("data")
def test_the_command_writes_a_page_of_maps_and_reference_images(tmp_path):
    root, given = tmp_path / "run", ["--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run"]
    image = tmp_path / "data" / "cat" / "0_cat.000.png"
    done = concepts_command(image, *given, "--references", 3, "--channels", 2)
    assert str(root / "report.html") in done.output.replace("\n", "")
    page = (root / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 + 2 * (1 + 3)
    assert re.search(r"channel \d: [\d.]+, [\d.]+ % of the layer", page)
    assert "The 2 channels shown hold" in page
    concepts_command("--of-class", 1, *given, "--by", "activation")  # goes on in the same run
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "that excite the channel most" in page
    assert page.count("<img") == 2 + 4 * (1 + 8)


@pytest.mark.usefixtures("data")
def test_the_command_says_what_is_missing(tmp_path):
    given = ["--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "run"]
    image = tmp_path / "data" / "cat" / "0_cat.000.png"
    assert "one of the two" in concepts_command(*given, code=2).output
    assert "one of the two" in concepts_command(image, "--of-class", 0, *given, code=2).output
    assert "explains one class" in concepts_command(image, "--target", "0,1", *given, code=2).output
    assert not (tmp_path / "run").exists()
