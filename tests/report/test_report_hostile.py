"""Saved results and runs with a value changed: read, or refused in one sentence; nothing is imported or run."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from mutations import mutated
from safetensors.torch import load_file, save_file

import relprop
from relprop.errors import InputError, RelpropError
from relprop.evaluation import Plan
from relprop.images import Preprocess
from relprop.report.render import render
from relprop.report.saved import annotate, report_of_results
from tiny import make, picture


@pytest.fixture
def saved(tmp_path):
    """A result as `relprop explain` leaves it, with layers and ledger."""
    x = Preprocess(size=8, resize=8, mean=(0.5,), std=(0.25,))(picture())[None]
    result = relprop.LRP(make(), keep=["late", "conv1"])(x)
    folder = result.save(tmp_path / "maps" / "a")
    about = {
        "composite": "paper",
        "class": "ant",
        "model": "tiny",
        "command": "relprop explain",
        "top": [[0, "ant", 1]],
    }
    annotate(folder, picture(), about | {"combine": "0.5*late+0.5*input"})
    return folder


def read(folder) -> str:
    """The page, or the complaint, which must be one of ours and one line."""
    try:
        return render(report_of_results([folder])).encode("utf-8", "backslashreplace").decode()
    except RelpropError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["manifest.json", "about.json"])
def test_every_value_of_a_document_may_be_anything(saved, name, every):
    path = saved / name
    document = json.loads(path.read_text())
    assert "refused" not in read(saved)
    before = set(sys.modules)
    tries = refused = 0
    for what, changed in mutated(document, every):
        path.write_bytes(json.dumps(changed).encode())
        try:
            said = read(saved)
            refused += said.startswith("refused") and "\n" not in said
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        tries += 1
    assert {one for one in set(sys.modules) - before if not one.startswith(("relprop", "PIL"))} == set()
    assert tries > 100 / every
    assert refused > 20 / every
    print(f"{name}: {tries} tries, {refused} refused")  # noqa: T201 - counted for the table in the docs


TENSORS = {
    "missing": lambda t: t.pop("score"),
    "a type": lambda t: t.update(relevance=t["relevance"].to(torch.complex64)),
    "bool": lambda t: t.update(relevance=t["relevance"] > 0),
    "a shape": lambda t: t.update(relevance=t["relevance"][0]),
    "a class that is none": lambda t: t.update(target=torch.tensor([7])),
    "a class below": lambda t: t.update(target=torch.tensor([-5])),
    "a target of fractions": lambda t: t.update(target=torch.tensor([0.0])),
    "more targets": lambda t: t.update(target=torch.tensor([0, 1])),
    "scores of no batch": lambda t: t.update(logits=t["logits"][0]),
    "a ledger of fewer steps": lambda t: t.update({"ledger/sent": t["ledger/sent"][:1]}),
    "a ledger without end": lambda t: t.pop("ledger/end"),
    "a layer of no name": lambda t: t.update({"kept/x": t["score"].clone()}),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_refused(saved, kind):
    tensors = load_file(saved / "relevance.safetensors")
    TENSORS[kind](tensors)
    save_file(tensors, saved / "relevance.safetensors")
    with pytest.raises(InputError, match="holds no result that can be read: "):
        relprop.Relevance.load(saved)


def test_pipes_for_files_do_not_hang(saved):
    for name in ("manifest.json", "about.json", "relevance.safetensors"):
        kept = (saved / name).read_bytes()
        (saved / name).unlink()
        os.mkfifo(saved / name)
        with pytest.raises(InputError):
            report_of_results([saved])
        (saved / name).unlink()
        (saved / name).write_bytes(kept)
    assert "refused" not in read(saved)


def test_names_that_are_no_text_are_shown_and_saved(saved, tmp_path):
    odd = tmp_path / b"maps\xff\x1b[31m".decode("utf-8", "surrogateescape")
    shutil.copytree(saved.parent, odd)
    about = json.loads((odd / "a" / "about.json").read_text()) | {"command": f"relprop explain {odd.name}"}
    annotate(odd / "a", picture(), about)
    page = read(odd / "a")
    assert "refused" not in page
    assert "\\udcff" in page


def test_every_value_of_a_plan_may_be_anything():
    """Plans come from manifests; what is not of its field's kind is refused there, before anything is looked up."""
    from relprop.evaluation import ModelSpec

    plan = Plan(
        ModelSpec("tiny", mean=(0.5,)), "folder:x", ("lrp", "sobel"), samples=4, step=0.5, only=("fair lrp none",)
    )
    tries = refused = 0
    for _, changed in mutated(plan.to_json()):
        try:
            Plan.from_json(changed)
        except RelpropError:
            refused += 1
        tries += 1
    assert (tries > 200, refused > 100) == (True, True)
    print(f"plan: {tries} tries, {refused} refused")  # noqa: T201


def test_the_maps_stay_what_they_were(saved):
    again = relprop.Relevance.load(saved)
    assert np.isclose(float(again.score[0]), float(again.ledger.start[0]))
    assert {side for _, side in again.kept} == {"input", "output"}
    assert again.combine({"late": 1.0}).shape == (1, 8, 8)
