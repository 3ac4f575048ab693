"""`relprop evaluate` and `relprop summary`, as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relprop.cli import app
from relprop.data import open_dataset
from relprop.evaluation.store import manifest, open_run
from tiny import OPTIONS as MODEL
from tiny import pictures

TESTS = Path(__file__).parents[1]  # where `tiny` is found


def relprop(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as exit:
        app([str(argument) for argument in arguments], prog_name="relprop")
    said = capsys.readouterr()
    return int(exit.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return f"folder:{pictures(tmp_path_factory.mktemp('pictures'), 40)}"


def test_pictures_that_a_reading_was_chosen_on_are_left_out_for_everyone(tmp_path, capsys, data):
    some = (*MODEL, "--data", data, "--samples", 6)
    tuned = tmp_path / "tuned.json"
    code, _, _ = relprop(
        capsys, "tune", *some, "--report", 4, "--folds", 2, "--step", 0.5, "--references", "sobel", "--out", tuned
    )
    assert code == 0
    written = json.loads(tuned.read_text())
    chosen = set(written["provenance"]["selection"])
    run = (*MODEL, "--data", data, "--step", 16, "--explainers", f"sobel,lrp-cuts:weights={tuned}")
    code, _, err = relprop(capsys, "evaluate", *run, "--out", tmp_path / "run")
    assert code == 0
    assert "left out 6 pictures that layer weights of lrp-cuts were chosen on" in err
    rows = open_run(tmp_path / "run").rows().collect()
    assert manifest(tmp_path / "run")["left_out"] == 6
    labels = {sample.id: sample.label for sample in open_dataset(data).samples}
    everyone = set(labels)
    assert len(chosen) == 6
    assert set(rows["sample"]) == everyone - chosen
    assert rows.filter(rows["explainer"] == "sobel")["sample"].n_unique() == 34

    few = (*run, "--samples", 38, "--out", tmp_path / "few")  # 34 are left, and all of them are measured
    code, _, _ = relprop(capsys, "evaluate", *few)
    assert code == 0
    assert manifest(tmp_path / "few")["samples"] == 34

    written["provenance"]["selection"] = labels
    tuned.write_text(json.dumps(written))
    code, _, err = relprop(capsys, "evaluate", *run, "--out", tmp_path / "none")
    assert code == 2
    assert "were chosen on every picture" in " ".join(err.split())


@pytest.fixture(scope="module")
def options(data):
    return [*MODEL, "--data", data, "--explainers", "input-x-gradient,sobel", "--batch-size", "2", "--step", "2"]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """The rows of an uninterrupted run."""
    root = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(SystemExit):
        app(["evaluate", *options, "--out", str(root)], prog_name="relprop")
    return open_run(root).rows().collect()


def test_evaluate_prints_a_table_and_says_where_the_run_is(tmp_path, capsys, options):
    code, out, err = relprop(
        capsys, "evaluate", *options, "--samples", 6, "--post", "none,quantize:8", "-o", tmp_path / "r"
    )
    assert code == 0
    assert "Protocol fair, ties shuffled" in out
    assert [line.split()[:2] for line in out.splitlines()[4:12]] == [
        [explainer, post]
        for explainer in ("input-x-gradient", "sobel", "constant", "random")
        for post in ("none", "quantize:8")
    ]
    assert str(tmp_path / "r") in err.replace("\n", "")
    found = manifest(tmp_path / "r")
    assert found["samples"] == 6
    assert {"relprop", "torch"} <= set(found["identity"]["versions"])
    (session,) = (tmp_path / "r" / "sessions").iterdir()
    assert json.loads(session.read_text())["workers"] == 1


def test_the_same_command_again_computes_nothing_and_another_one_is_refused(tmp_path, capsys, options):
    arguments = ["evaluate", *options, "--samples", 4, "--out", tmp_path / "r"]
    first = relprop(capsys, *arguments)
    shard = tmp_path / "r" / "shards" / "00000.parquet"
    before = shard.stat().st_mtime_ns
    assert relprop(capsys, *arguments) == first
    assert shard.stat().st_mtime_ns == before
    code, _, err = relprop(capsys, *arguments, "--seed", 1)
    assert (code, "holds another run (seed: 0, now 1)" in err) == (2, True)


def test_summary_formats_and_differences(tmp_path, capsys, options):
    relprop(capsys, "evaluate", *options, "--samples", 4, "--out", tmp_path / "r")
    code, out, _ = relprop(capsys, "summary", tmp_path / "r", "--format", "csv", "--versus", "sobel")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(line["explainer"], line["metric"], line["n"]) for line in lines[:3]] == [
        ("input-x-gradient", "insertion", "4"),
        ("input-x-gradient", "deletion", "4"),
        ("input-x-gradient", "id", "4"),
    ]
    assert {line["difference"] for line in lines if line["explainer"] == "sobel"} == {"0.0"}
    for kind, mark in (("text", "± "), ("markdown", "| --- |"), ("latex", r"\toprule")):
        assert mark in relprop(capsys, "summary", tmp_path / "r", "--format", kind)[1]
    code, _, err = relprop(capsys, "summary", tmp_path / "r", "--versus", "lrp")
    assert (code, "nothing in this run is called 'lrp'" in err) == (2, True)
    code, _, err = relprop(capsys, "summary", tmp_path)
    assert (code, "is no run directory" in err) == (2, True)


def test_a_corrupt_picture_is_a_row_with_the_error_and_exit_code_1(tmp_path, capsys):
    root = pictures(tmp_path / "data", 5)
    (root / "0_cat.002.png").write_bytes((root / "0_cat.002.png").read_bytes()[:100])
    code, out, _ = relprop(capsys, "evaluate", *MODEL, "-d", f"folder:{root}", "-e", "sobel", "-o", tmp_path / "r")
    assert code == 1
    assert "1 pictures could not be read, for example: sample 0_cat.002.png" in out
    frame = open_run(tmp_path / "r").rows().collect()
    assert set(frame.filter(frame["error"].is_not_null())["sample"]) == {"0_cat.002.png"}
    assert frame.height == 5 * 3 * 3
    assert [line.split()[-2:] for line in out.splitlines()[4:7]] == [["4", "1"]] * 3


def test_mistakes_are_one_sentence(tmp_path, capsys, options):
    for arguments, sentence in (
        (["--data", "folder:nowhere"], "there is no folder"),
        (["--explainers", "gradcam"], "did you mean 'grad-cam'"),
        (["--protocol", "papr"], "no protocol is named 'papr'"),
        (["--metrics", ","], "',' is an empty list"),
        (["--samples", 41], "41 samples were asked for; the data set holds 40"),
        (["--metrics", "pointing-game"], "needs to know where the objects are"),
    ):
        code, _, err = relprop(capsys, "evaluate", *options, *arguments, "--out", tmp_path / "r")
        assert (code, sentence in " ".join(err.split())) == (2, True), err


def start(options: list[str], out: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start the command as a process of its own."""
    arguments = ["relprop", "evaluate", *options, "--out", str(out), "--workers", str(workers)]
    code = f"import sys; sys.argv = {arguments!r}; from relprop.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


@pytest.mark.slow
def test_a_killed_command_leaves_no_worker_behind_and_is_taken_up_again(tmp_path, capsys, options, whole):
    out = tmp_path / "run"
    with start(options, out, workers=2) as process:
        wait_for(lambda: len(list(out.glob("shards/?????.parquet"))) >= 2)
        process.kill()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/?????.parquet")}
    wait_for(lambda: not working_on(out))
    code, table, err = relprop(capsys, "evaluate", *options, "--out", out)
    assert "computed anew" not in err
    assert code == 0
    assert open_run(out).rows().collect().equals(whole)
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("shards/?????.parquet")}.items()
    assert "NOT FINISHED" not in table
    assert len(list((out / "sessions").iterdir())) == 2


def wait_for(condition, seconds: float = 180.0) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def working_on(out: Path) -> list[int]:
    """Processes whose command line names the run directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"relprop.evaluation.worker" in words and str(out).encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.slow
def test_workers_that_cannot_start_are_reported_with_what_they_said(tmp_path, capsys, options, monkeypatch):
    """The workers do not find the model, since it is not on their path."""
    monkeypatch.setattr("relprop.evaluation.local.sys.path", [path for path in sys.path if path != str(TESTS)])
    code, _, err = relprop(capsys, "evaluate", *options, "--out", tmp_path / "run", "--workers", 2)
    assert code == 2
    said = " ".join(err.split())
    assert "all 2 workers ended" in said
    assert "20 of 20 chunks left" in said
    assert "tiny" in said
