"""Run directories that were damaged, mixed up or made by hand: nothing of them is averaged unsaid."""

from __future__ import annotations

import json
import os
import random
import shutil

import polars as pl
import pytest
from setup_doubles import plan_of, setup_of

from relprop.cli import app
from relprop.errors import DataError, RunError
from relprop.evaluation.compute import chunk_rows
from relprop.evaluation.local import _spawn, recovered, work
from relprop.evaluation.local import start as start_run
from relprop.evaluation.shards import sample_ids
from relprop.evaluation.state import look, set_aside
from relprop.evaluation.store import begin, open_run, summary_of

IDENTITY = {"samples": "s", "weights": "w", "versions": {"torch": "1"}}
IDS = [str(at) for at in range(10)]


def run_in(root, identity=IDENTITY, **changes):
    setup = setup_of(IDS, **changes)
    store = begin(root, setup.plan, setup.chunks, identity, {"samples": len(IDS)})
    work(store, setup)
    return store


@pytest.fixture
def store(tmp_path):
    return run_in(tmp_path / "run")


def relprop(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        app([str(argument) for argument in arguments], prog_name="relprop")
    said = capsys.readouterr()
    return int(exit.value.code or 0), said.out, " ".join(said.err.split())


def truncate(store):
    path = store.shard(1)
    path.write_bytes(path.read_bytes()[:-40])


def flip(store):
    content = bytearray(store.shard(1).read_bytes())
    content[40] ^= 1
    store.shard(1).write_bytes(content)


def empty(store):
    store.shard(1).write_bytes(b"")


def copied_in(**changes):
    def copy(store):
        other = run_in(store.root.with_name("other"), **changes)
        shutil.copy(other.shard(1), store.shard(1))

    return copy


def renamed(store):
    shutil.copy(store.shard(0), store.shard(1))


def made_by_hand(store):
    store.rows([1]).collect().write_parquet(store.shard(1))


def folder(store):
    store.shard(1).unlink()
    store.shard(1).mkdir()


def loop(store):
    store.shard(1).unlink()
    store.shard(1).symlink_to(store.shard(1))


def pipe(store):
    store.shard(1).unlink()
    os.mkfifo(store.shard(1))


def rewritten(change):
    """Seal rows that `chunk_rows` would not give."""

    def write(store):
        store.shard(1).unlink()
        store.write(1, change(chunk_rows(setup_of(IDS), 1)), {})

    return write


DAMAGE = {
    "truncated": (truncate, "is truncated, or is no Parquet file"),
    "a flipped bit": (flip, "its bytes are not those that were written (another SHA-256)"),
    "empty": (empty, "is truncated, or is no Parquet file (0 bytes)"),
    "another plan": (copied_in(seed=1), "belongs elsewhere: its plan is"),
    "another model": (
        copied_in(identity={**IDENTITY, "weights": "v"}),
        'its weights is "v", that of this run and place is "w"',
    ),
    "other versions": (copied_in(identity={**IDENTITY, "versions": {}}), "belongs elsewhere: its versions is {}"),
    "another place": (renamed, "belongs elsewhere: its chunk is 0, that of this run and place is 1"),
    "made by hand": (made_by_hand, "carries no checksum, so this version of `relprop evaluate` did not write it"),
    "a folder": (folder, "is no regular file"),
    "a link to itself": (loop, "cannot be read (Too many levels of symbolic links)"),
    "a pipe": (pipe, "is no regular file"),
    "rows twice": (rewritten(lambda rows: [*rows, rows[0]]), "holds rows twice"),
    "a sample less": (rewritten(lambda rows: rows[:6]), "holds 3 samples, not 4"),
    "a row less": (rewritten(lambda rows: rows[:-1]), "holds 1 rows of one sample and 2 of another"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_shard_that_is_not_what_it_claims_is_left_out_named_and_computed_anew(tmp_path, capsys, store, kind):
    whole = store.rows().collect()
    damage, why = DAMAGE[kind]
    damage(store)
    state = look(store)
    assert (state.whole, state.missing, list(state.damaged)) == ((0, 2), (), [1])
    assert state.damaged[1].startswith(f"{store.shard(1)} ")
    assert why in state.damaged[1]

    with pytest.raises(RunError, match=r"00001\.parquet"):
        store.rows()
    summary = summary_of(store)
    assert {line.n for line in summary.lines} == {6}
    assert "NOT FINISHED: 2 of 3 chunks" in summary.caption
    assert summary.left_out == (f"{state.damaged[1]}; its rows are left out",)
    assert relprop(capsys, "check-run", store.root)[0] == 1
    code, out, err = relprop(capsys, "summary", store.root)
    assert (code, str(store.shard(1)) in err, why in " ".join(out.split())) == (1, True, True)

    said = []
    facts = recovered(store, said.append)
    assert facts == {"set_aside": said}
    assert "its rows are computed anew" in said[0]
    assert len(list((store.root / "set-aside").iterdir())) == 1
    work(store, setup_of(IDS))
    assert store.rows().collect().equals(whole)
    assert set_aside(store) == ()
    assert relprop(capsys, "check-run", store.root)[0] == 0


def test_flipped_bytes_and_lengths_are_found(store):
    """A Parquet reader that is given some of these ends the process; they are refused before."""
    content = store.shard(1).read_bytes()
    chance = random.Random(0)
    found = 0
    tries = [content[:length] for length in range(0, len(content), 53)]
    for at in range(0, len(content), 5):
        changed = bytearray(content)
        changed[at] ^= chance.randrange(1, 256)
        tries.append(bytes(changed))
    for bad in tries:
        store.shard(1).write_bytes(bad)
        with pytest.raises(ValueError, match=r"is truncated|carries no checksum|its bytes are not those"):
            sample_ids(store.shard(1), {}, store.plan, None)
        found += 1
    assert found == len(tries)
    assert len(tries) > 500


def test_files_that_belong_to_no_chunk_are_named_and_the_rest_stands(capsys, store):
    (store.root / "shards" / "00007.parquet").write_bytes(store.shard(0).read_bytes())
    (store.root / "shards" / ".00001.parquet.12ab").write_bytes(b"PAR1 half, by a process that was killed")
    assert look(store).strangers == ("00007.parquet",)
    assert {line.n for line in summary_of(store).lines} == {10}
    code, out, err = relprop(capsys, "check-run", store.root)
    assert (code, "1 files among them belong to no chunk" in out, "00007.parquet belongs to no chunk" in err) == (
        1,
        True,
        True,
    )


def test_a_shard_that_somebody_works_on_is_left_to_them(store):
    store.shard(1).write_bytes(b"")
    store.shard(1).unlink()
    with store.claim(1) as mine:
        store.shard(1).write_bytes(b"")
        assert mine
        assert set_aside(store) == ()
        assert store.shard(1).exists()


def test_check_run_tells_whole_unfinished_damaged_and_misuse(tmp_path, capsys, store):
    code, out, err = relprop(capsys, "check-run", store.root)
    assert (code, err) == (0, "")
    assert "3 of 3 chunks are there" in out
    assert "3 shards are whole and of this run" in out
    store.shard(2).unlink()
    code, out, err = relprop(capsys, "check-run", store.root)
    assert (code, "2 of 3 chunks are there, 1 is missing, the first is 00002" in out) == (1, True)
    code, out, _ = relprop(capsys, "check-run", store.root, "--json")
    found = json.loads(out)
    assert (code, found["whole"], found["chunks_missing"], found["chunks_whole"]) == (1, False, [2], 2)
    code, _, err = relprop(capsys, "check-run", tmp_path)
    assert (code, "is no run directory" in err) == (2, True)


MANIFESTS = {
    "no JSON": (lambda m: "{", "cannot be read: Expecting"),
    "not UTF-8": (lambda m: b"\xff\xfe{}", "cannot be read: 'utf-8' codec"),
    "nested": (lambda m: "[" * 100_000, "cannot be read: it is nested too deep"),
    "a list": (lambda m: [], "holds a list, not a JSON object"),
    "no plan": (lambda m: {}, "it lacks 'plan'"),
    "a plan of text": (lambda m: m | {"plan": "lrp"}, "this is no plan that this version of relprop can read"),
    "a batch of text": (lambda m: m | {"plan": m["plan"] | {"batch": "4"}}, "batch cannot be '4'"),
    "a batch of yes": (lambda m: m | {"plan": m["plan"] | {"batch": True}}, "batch cannot be True"),
    "a model of text": (lambda m: m | {"plan": m["plan"] | {"model": "os:abort"}}, "this is no plan"),
    "a field more": (lambda m: m | {"plan": m["plan"] | {"colour": "red"}}, "there is no field 'colour'"),
    "another plan": (lambda m: m | {"plan": m["plan"] | {"seed": 5}}, "its plan has the digest"),
    "many chunks": (lambda m: m | {"chunks": 10**12}, "it counts 1000000000000 chunks"),
    "few chunks": (lambda m: m | {"chunks": 1}, "it counts 1 chunks of 4 for 10 samples"),
    "chunks of text": (lambda m: m | {"chunks": "3"}, "its chunks are '3', not a whole number"),
    "no identity": (lambda m: m | {"identity": None}, "its identity is a NoneType, not an object"),
    "samples below": (lambda m: m | {"samples": -3}, "for -3 samples"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_was_changed_is_refused_in_one_sentence(capsys, store, kind):
    change, why = MANIFESTS[kind]
    path = store.root / "manifest.json"
    changed = change(json.loads(path.read_text()))
    content = changed if isinstance(changed, str | bytes) else json.dumps(changed)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command, code in (("summary", 2), ("report", 2), ("check-run", 1)):
        found, _, err = relprop(capsys, command, store.root)
        assert (found, why in err, err.count("error:")) == (code, True, 1), err


def test_a_manifest_that_is_a_pipe_does_not_hang(capsys, store):
    (store.root / "manifest.json").unlink()
    os.mkfifo(store.root / "manifest.json")
    code, _, err = relprop(capsys, "summary", store.root)
    assert (code, "is a pipe, device or socket" in err) == (2, True)


def test_two_samples_of_one_id_are_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(DataError, match="two samples of doubles have the id '3'"):
        start_run(tmp_path / "run", plan_of(), setup_of(["3", "4", "3"]))


def test_shards_stay_plain_parquet(store):
    """Other programs read them, checksum and all."""
    table = pl.read_parquet(store.shard(0))
    assert table["value"].to_list()[::2] == [0.0, 4.0, 8.0, 12.0]
    assert pl.read_parquet_metadata(store.shard(0))["relprop.plan"] == store.plan.digest


def test_progress_counts_samples(tmp_path):
    setup = setup_of(IDS)
    store = begin(tmp_path / "run", setup.plan, setup.chunks, IDENTITY, {"samples": len(IDS)})
    told = []
    work(store, setup, lambda done, total: told.append((done, total)))
    assert told[:3] == [(4, 10), (8, 10), (10, 10)]
    assert open_run(store.root).done() == (10, 10)


def test_a_module_in_the_current_folder_is_not_run_by_a_worker(tmp_path, monkeypatch, store):
    (tmp_path / "relprop.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    with _spawn(store, 0, tmp_path / "log") as worker:
        worker.stdin.close()
        worker.wait(120)
    assert not (tmp_path / "ran").exists()
