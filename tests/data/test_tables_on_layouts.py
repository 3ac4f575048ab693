"""The paper's table from data sets laid out as they are distributed: loaders, evaluation and table in one go."""

from __future__ import annotations

import csv

import pytest
import trees

import commands


def run(*arguments):
    return commands.run("reproduce", *arguments).output


def rows(path):
    with path.open() as lines:
        return list(csv.DictReader(lines))


def test_table_2_on_the_layout_of_imagenet(tmp_path):
    labels = [0, 1, 2, 0, 1, 2]
    trees.imagenet_flat(tmp_path / "val", labels)
    trees.development_kit(tmp_path, labels)
    out = tmp_path / "out"
    model = ["--model", "random:cifar-resnet20", "--data", f"imagenet:{tmp_path}"]
    said = run("table2", *model, "--samples", 3, "--step", 512, "--out", out)
    found = rows(out / "table2.csv")
    assert {row["n"] for row in found} == {"3"}
    assert {row["failures"] for row in found} == {"0"}
    assert {row["protocol"] for row in found} == {"paper-protocol", "fair"}
    printed = {row["row"]: row["published"] for row in found if row["metric"] == "id" and row["control"] == "False"}
    assert [float(value) for value in printed.values()] == pytest.approx([0.510, 0.517, 0.510, 0.545])
    assert "Ours is not the paper's setting" in said


@pytest.mark.slow
def test_table_1_on_the_layout_of_cub_with_two_models(tmp_path):
    home, out = trees.cub(tmp_path), tmp_path / "out"
    models = ["--model", "random:cifar-resnet20", "--model", "random:cifar-resnet20-b"]
    given = [*models, "--data", f"cub:{home}:split=test", "--methods", "grad-cam,proposed", "--step", "512"]
    run("table1", *given, "--samples", 2, "--out", out)
    found = {(r["row"], r["protocol"], r["metric"]): r for r in rows(out / "table1.csv")}
    row = found["Grad-CAM", "paper-protocol", "id"]
    assert (float(row["published"]), float(row["published_deviation"])) == (45.3, 1.1)
    assert float(row["spread"]) > 0, "the deviation over the two models"
    assert row["n"] == "2"
