"""`relprop reproduce figure3`, `figure5`, `figure6`, `figure7` on a tiny network."""

from __future__ import annotations

import csv

import pytest
import torch
from reproduce_net import make, plain
from torch import nn

import relprop
from relprop.data import open_dataset
from relprop.errors import CheckError, InputError, UsageError
from relprop.evaluation import ModelSpec
from relprop.evaluation.plan import short_model
from relprop.models import load_model
from relprop.reproduce import figure7
from relprop.reproduce.figures import gallery
from relprop.reproduce.pictures import choose, explained, show
from relprop.reproduce.setting import Setting, with_seeds


@pytest.fixture
def loaded():
    return load_model("reproduce_net:make", size=8, mean=(0.5,) * 3, std=(0.25,) * 3)


def setting(data: str, **options) -> Setting:
    return Setting((ModelSpec("reproduce_net:make"),), data, **{"samples": 2, **options})


def written(folder, name: str) -> None:
    assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"


def test_separators_are_the_inputs_of_the_first_and_last_block():
    graph = relprop.LRP(make()).graph(torch.rand(2, 3, 8, 8))
    assert [cut.layer for cut in figure7.separators_shown(graph)] == ["input", "relu", "relu@1"]


def test_a_block_that_begins_at_the_image_is_shown_there():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x):
            return self.fc((x + self.conv(x)).relu().mean((2, 3)))

    graph = relprop.LRP(First().eval()).graph(torch.rand(2, 3, 4, 4))
    assert [cut.layer for cut in figure7.separators_shown(graph)] == ["input"] * 3


def test_a_network_without_blocks_is_refused():
    with pytest.raises(InputError, match="this network has none"):
        figure7.separators_shown(relprop.LRP(plain()).graph(torch.rand(2, 3, 8, 8)))


def test_figure7_sums_to_the_probability(reproduce, data, tmp_path, monkeypatch):
    code, out, _ = reproduce("figure7", "-n", 5, "--batch-size", 2, "--out", tmp_path)
    assert (code, "conserves within 1e-06" in out) == (0, True)
    written(tmp_path, "figure7")
    with (tmp_path / "figure7.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 3 * 5
    model, found = load_model("reproduce_net:make", size=8, mean=(0.5,) * 3, std=(0.25,) * 3), open_dataset(data)
    by_id = {sample.id: sample for sample in found.samples}
    worst = {}
    for line in lines:
        total, p = float(line["relevance"]), float(line["probability"])
        picture = found.load(by_id[line["sample"]])
        with torch.no_grad():
            assert p == pytest.approx(float(model.model(model.preprocess(picture)[None]).softmax(1).max()), abs=1e-6)
        key = line["composite"], line["title"]
        worst[key] = max(worst.get(key, 0.0), abs(total - p) / p)
    assert max(gap for (composite, _), gap in worst.items() if composite == "paper") <= 1e-6
    assert worst["released", "network input"] > 1e-6  # its epsilon takes more than rounding does
    assert f"{worst['released', 'network input']:.1e}" in out
    monkeypatch.setattr(figure7, "TOLERANCE", 0.0)
    assert reproduce("figure7", "-n", 5, "--out", tmp_path)[0] == 1


def test_figure5_and_figure6_are_drawn(reproduce, tmp_path):
    pytest.importorskip("captum")
    arguments = ("--images", "cat.000,1_dog.003.png", "--out", tmp_path)
    assert reproduce("figure5", "--methods", "lrp,grad-cam,proposed", *arguments)[0] == 0
    written(tmp_path, "figure5")
    code, _, err = reproduce("figure6", "--images", "cow", "--out", tmp_path)
    assert (code, "has no sample and no class 'cow'" in err) == (2, True)


def test_figure3_and_6_take_pictures_by_seed(reproduce, tmp_path):
    for name in ("figure3", "figure6"):
        assert reproduce(name, "-n", 1, "--seeds", 1, "--out", tmp_path)[0] == 0
        written(tmp_path, name)


def test_names_of_classes_are_what_pictures_are_asked_by(reproduce, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("puma\nlynx\n")
    arguments = ("--classes", names, "--images", "lynx", "--out", tmp_path)
    assert reproduce("figure3", *arguments)[0] == 0
    written(tmp_path, "figure3")
    names.write_text("puma\n")
    code, _, err = reproduce("figure3", *arguments)
    assert (code, "1 class names were given, but the network has 2 outputs" in " ".join(err.split())) == (2, True)
    code, _, err = reproduce("table2", "--classes", names)
    assert (code, "table2 names no classes" in err) == (2, True)


def test_pictures_by_id_by_class_and_by_the_papers_classes(data, loaded):
    found = open_dataset(data)
    both = choose(found, loaded, setting(data, images=("1_dog.003.png", "CAT.000")))
    assert [sample.id for sample in both][:1] == ["1_dog.003.png"]
    assert both[1].label == 0
    assert [sample.label for sample in choose(found, loaded, setting(data), ("dog.001", "cat.000"))] == [1, 0]
    assert sorted(sample.label for sample in choose(found, loaded, setting(data), ("dog.001", "bee"))) == [0, 1]
    with pytest.raises(UsageError, match=r"no class 'dgo\.001', and no file .* is there; near it: dog\.001"):
        choose(found, loaded, setting(data, images=("dgo.001",)))


def test_a_method_that_fails_leaves_an_empty_cell_and_says_so(data, loaded):
    found = open_dataset(data)
    shown = [show(sample, found, loaded, "cpu") for sample in found.samples[:2]]

    def fail(model, x, target):
        raise CheckError("it lost count")

    maps = explained(fail, lambda heatmap: heatmap, loaded, shown)
    assert maps == ["it lost count"] * 2
    figure = gallery(shown, {"method": maps, "other": [torch.rand(8, 8)] * 2}, caption="Ours.")
    texts = [text.get_text() for text in figure.texts] + [t.get_text() for ax in figure.axes for t in ax.texts]
    assert texts.count("no map") == 2
    assert any("No map: the method cannot explain this network." in text for text in texts)
    assert len(figure.axes) == 2 * 3 + 1
    nothing = explained(lambda model, x, target: x.sum(1) / 0, lambda heatmap: heatmap, loaded, shown)
    assert nothing == ["the map is not finite"] * 2


def test_names_for_captions():
    assert with_seeds(["a/seed-{seed}/model.pt"], [40, 41]) == (("a/seed-40/model.pt", "a/seed-41/model.pt"), (0,))
    assert with_seeds(["a", "b"], [1, 2]) == (("a", "b"), (1, 2))
    assert [short_model(name) for name in ("/x/r20.th", "/x/seed-40/model.safetensors", "resnet50")] == [
        "r20",
        "seed-40/model",
        "resnet50",
    ]
    assert setting("folder:/far/away/pictures:labels=names").data_name == "folder:pictures:labels=names"
