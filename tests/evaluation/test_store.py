from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from setup_doubles import plan_of, setup_of

from relprop.errors import RunError
from relprop.evaluation import Plan, with_controls
from relprop.evaluation.compute import chunk_rows
from relprop.evaluation.local import work
from relprop.evaluation.store import begin, manifest, open_run
from relprop.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = {"samples": "s", "weights": "w", "versions": {"torch": "1"}}


def begun(root: Path, chunks: int = 3, **changes):
    return begin(root, plan_of(**changes), chunks, IDENTITY, {"python": "3"})


def ten() -> list[str]:
    return [str(at) for at in range(10)]


# plans


def test_a_plan_survives_json_and_its_digest_names_it():
    plan = plan_of(step=0.5, post=("none", "quantize:8"), samples=7)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.digest == Plan.from_json(plan.to_json()).digest
    assert len({plan.digest, plan_of().digest, plan_of(seed=1).digest, plan_of(threads=2).digest}) == 4


def test_plans_refuse_nonsense():
    with pytest.raises(ValueError, match="needs at least one of explainers"):
        plan_of(explainers=())
    with pytest.raises(ValueError, match="explainers were given twice: lrp; name each once"):
        plan_of(explainers=("lrp", "lrp"))
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        plan_of(batch=0)
    with pytest.raises(RunError, match="this is no plan that this version of relprop can read"):
        Plan.from_json({**plan_of().to_json(), "colour": "red"})


def test_controls_are_added_once():
    assert with_controls(("lrp",)) == ("lrp", "constant", "random")
    assert with_controls(("random:seed=3", "lrp")) == ("random:seed=3", "lrp", "constant")


# run directories


def test_rows_come_back_as_they_were_written(tmp_path):
    setup = setup_of(["10", "broken", *ten()])
    store = begun(tmp_path / "run", setup.chunks)
    work(store, setup)
    rows = [row for chunk in range(setup.chunks) for row in chunk_rows(setup, chunk)]
    frame = store.rows().collect()
    assert frame.height == len(rows) == 24
    assert list(zip(frame["sample"], frame["metric"], frame["value"], frame["error"], strict=True)) == [
        (row.sample, row.metric, row.value, row.error) for row in rows
    ]
    assert frame["target"].null_count() == 2
    assert store.missing() == []
    assert [path.name for path in (tmp_path / "run/locks").iterdir()] == ["manifest.lock"]


def test_the_manifest_holds_plan_and_identity_and_stays_as_it_is(tmp_path):
    begun(tmp_path)
    first = (tmp_path / "manifest.json").read_bytes()
    begun(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == first
    found = manifest(tmp_path)
    assert (found["plan"], found["digest"]) == (plan_of().to_json(), plan_of().digest)
    assert (found["identity"], found["chunks"], found["python"]) == (IDENTITY, 3, "3")
    assert open_run(tmp_path).plan == plan_of()


def test_another_plan_in_the_same_directory_is_refused_with_the_difference(tmp_path):
    begun(tmp_path)
    with pytest.raises(RunError, match=r"holds another run \(samples: None, now 9; seed: 0, now 1\); choose another"):
        begun(tmp_path, seed=1, samples=9)


def test_other_weights_data_or_versions_are_refused(tmp_path):
    begun(tmp_path)
    with pytest.raises(RunError, match=r"its rows would not belong together: weights was w, is other\. Restore that"):
        begin(tmp_path, plan_of(), 3, {**IDENTITY, "weights": "other"}, {})


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(RunError, match="is no run directory; choose an empty or a new one"):
        begun(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is no run directory"):
        begun(tmp_path / "thesis.tex")
    with pytest.raises(RunError, match=r"is no run directory \(no manifest\.json in it\)"):
        open_run(tmp_path)


def test_a_directory_that_was_killed_before_its_manifest_can_be_begun(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / ".manifest.json.0123").write_text('{"pla')
    assert begun(tmp_path).missing() == [0, 1, 2]


def test_a_chunk_is_claimed_once(tmp_path):
    store, other = begun(tmp_path), begun(tmp_path)
    with store.claim(0) as mine:
        assert mine
        with other.claim(0) as theirs:
            assert not theirs
        with other.claim(1) as free:
            assert free
    with other.claim(0) as again:
        assert again
        other.write(0, chunk_rows(setup_of(ten()), 0), {})
    with store.claim(0) as done:
        assert not done
    assert store.missing() == [1, 2]


def test_a_claim_clears_what_a_killed_process_left(tmp_path):
    store = begun(tmp_path)
    half = tmp_path / "shards" / ".00001.parquet.abc"
    half.write_bytes(b"PAR1 half")
    assert store.missing() == [0, 1, 2]
    with store.claim(1):
        assert not half.exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    (tmp_path / "a").write_text("before")
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "a", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]


def test_sessions_note_start_and_end(tmp_path):
    store = begun(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.session({"command": ["relprop", "evaluate"]}):
        raise KeyboardInterrupt
    (path,) = (tmp_path / "sessions").iterdir()
    found = json.loads(path.read_text())
    assert (found["command"], found["chunks_left"], found["chunks_left_at_the_end"]) == (["relprop", "evaluate"], 3, 3)
    assert found["started"] <= found["ended"]


def test_no_rows_yet(tmp_path):
    with pytest.raises(RunError, match="holds no rows yet; start the same command again"):
        begun(tmp_path).rows()
