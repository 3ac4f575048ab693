"""`relprop doctor`: what is here, what is missing, and whether relevance is conserved."""

from __future__ import annotations

import importlib.metadata
import json
from functools import partial

import pytest
import torch

import commands
import relprop
from relprop.cli import doctor


def run(*arguments: str, code: int = 0) -> str:
    return commands.run("doctor", "--device", "cpu", *arguments, code=code).stdout


def test_it_says_what_is_here_and_the_self_test_holds():
    found = json.loads(run("--json"))
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert found["machine"]["cores"] >= 1
    assert found["self_test"]["passed"]
    assert 0 < found["self_test"]["gap"] < 1e-5
    assert found["self_test"]["sum"] == pytest.approx(found["self_test"]["score"], rel=1e-5)
    said = run()
    assert f"torch {importlib.metadata.version('torch')} " in said
    assert f"largest leak {found['self_test']['gap']:.1e}" in said


def test_an_extra_that_is_missing_is_named_with_the_command_that_adds_it(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "transformers" else "1")
    assert json.loads(run("--json"))["extras"]["text"] == ["transformers"]
    assert "transformers not installed; to add: pip install" in run()
    assert json.loads(run("--json"))["extras"]["web"] == []


def test_the_random_numbers_of_the_process_stay_where_they_were():
    state = torch.get_rng_state()
    doctor.self_test("cpu")
    assert torch.equal(state, torch.get_rng_state())


def test_relevance_that_does_not_arrive_fails_the_self_test(monkeypatch):
    absorbing = partial(relprop.LRP, composite=relprop.epsilon(eps=1.0))
    monkeypatch.setattr(relprop.core.lrp, "LRP", absorbing)
    found = json.loads(run("--json", code=1))["self_test"]
    assert not found["passed"]
    assert found["sum"] != pytest.approx(found["score"], rel=1e-3)
    assert "✗ self-test" in run(code=1)


def test_what_the_self_test_raises_is_said(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(relprop.core.lrp, "record", broken)
    assert "self-test: RuntimeError: no kernel image is available" in run(code=1)
