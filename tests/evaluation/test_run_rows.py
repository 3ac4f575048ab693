from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from setup_doubles import Sums, itself, noise, setup_of, total

from relprop.data import Sample, open_dataset
from relprop.errors import DataError, MissingDependencyError
from relprop.evaluation.compute import chunk_rows
from relprop.evaluation.plan import Plan
from relprop.evaluation.setup import Measure, Seen
from relprop.explainers.base import ByChannel
from relprop.images import Preprocess


def values(rows, metric="total"):
    return [(row.sample, row.explainer, row.post, row.value) for row in rows if row.metric == metric]


def test_one_row_for_each_sample_explainer_post_and_metric_row():
    explainers = {"itself": itself, "twice": lambda model, x, target: 2 * x.sum(1)}
    posts = {"none": lambda heatmap: heatmap, "minus": lambda heatmap: -heatmap}
    rows = chunk_rows(setup_of(["3", "-5"], explainers, posts), 0)
    assert values(rows) == [
        ("3", "itself", "none", 12.0),
        ("3", "itself", "minus", -12.0),
        ("3", "twice", "none", 24.0),
        ("3", "twice", "minus", -24.0),
        ("-5", "itself", "none", -20.0),
        ("-5", "itself", "minus", 20.0),
        ("-5", "twice", "none", -40.0),
        ("-5", "twice", "minus", 40.0),
    ]
    assert {(row.sample, row.label, row.target) for row in rows} == {("3", 0, 0), ("-5", 1, 1)}
    assert [row.value for row in rows if row.metric == "label"] == [0.0] * 4 + [1.0] * 4


def test_the_target_may_be_the_label():
    asked = {"target": lambda model, x, target: target[:, None, None].float().expand(-1, 2, 2)}
    setup = setup_of(["3", "4"], asked, target="label")
    assert values(chunk_rows(setup, 0)) == [("3", "target", "none", 0.0), ("4", "target", "none", 4.0)]
    assert values(chunk_rows(setup_of(["3", "4"], asked), 0)) == [
        ("3", "target", "none", 0.0),
        ("4", "target", "none", 0.0),
    ]


def test_chunks_are_made_of_batch_samples_and_the_last_is_short():
    setup = setup_of([str(at) for at in range(10)])
    assert setup.chunks == 3
    assert [[name for name, *_ in values(chunk_rows(setup, at))] for at in range(3)] == [
        ["0", "1", "2", "3"],
        ["4", "5", "6", "7"],
        ["8", "9"],
    ]


def test_a_picture_that_cannot_be_read_is_an_error_row_and_the_others_are_computed():
    rows = chunk_rows(setup_of(["1", "broken", "2"]), 0)
    assert values(rows) == [
        ("1", "itself", "none", 4.0),
        ("broken", "itself", "none", None),
        ("2", "itself", "none", 8.0),
    ]
    broken = [row for row in rows if row.sample == "broken"]
    assert [(row.metric, row.target, row.error) for row in broken] == [
        ("total", None, "sample broken of doubles cannot be read: it is damaged"),
        ("label", None, "sample broken of doubles cannot be read: it is damaged"),
    ]


def test_a_chunk_without_a_readable_picture():
    rows = chunk_rows(setup_of(["broken"]), 0)
    assert [row.error for row in rows] == ["sample broken of doubles cannot be read: it is damaged"] * 2


def test_an_explainer_that_fails_on_one_sample_fails_on_that_one_alone():
    def fragile(model, x, target):
        if (x == 2).any():
            raise ZeroDivisionError("two is not allowed")
        return x.sum(1)

    rows = [row for row in chunk_rows(setup_of(["1", "2", "3"], {"fragile": fragile}), 0) if row.metric == "total"]
    assert [(row.value, row.error) for row in rows] == [
        (4.0, None),
        (None, "ZeroDivisionError: two is not allowed"),
        (12.0, None),
    ]


def test_values_that_are_not_finite_are_failures_with_a_reason():
    def infinite(model, x, target):
        return torch.where(x.sum(1) == 2, torch.inf, x.sum(1))

    def undefined(model, x, heatmap, target):
        return {"total": torch.where(heatmap[:, 0, 0] == 3, torch.nan, heatmap.sum(dim=(1, 2)))}

    rows = chunk_rows(setup_of(["1", "2", "3"], {"infinite": infinite}, measures=[Measure(undefined, ("total",))]), 0)
    assert [(row.value, row.error) for row in rows] == [
        (4.0, None),
        (None, "4 of the heatmap's 4 values are infinite or not a number"),
        (None, "the metric gave nan"),
    ]


def test_a_heatmap_of_the_wrong_shape_says_so():
    rows = chunk_rows(setup_of(["1"], {"flat": lambda model, x, target: x}), 0)
    assert rows[0].error == "ValueError: the heatmap is (1, 1, 2, 2), not (1, 2, 2)"


def test_a_missing_library_stops_the_run():
    def lacking(model, x, target):
        raise MissingDependencyError("captum is not installed")

    with pytest.raises(MissingDependencyError):
        chunk_rows(setup_of(["1"], {"lacking": lacking}), 0)


def test_labels_that_the_model_does_not_know_stop_the_run():
    setup = setup_of(["1", "2"])
    samples = [Sample("1", 0), Sample("2", 7)]
    setup = type(setup)(**{**setup.__dict__, "samples": type(setup.samples)(samples, setup.samples.tensor)})
    with pytest.raises(DataError, match="sample 2 has label 7, and the model knows 2 classes"):
        chunk_rows(setup, 0)


def test_random_draws_repeat_and_leave_the_callers_generator_alone():
    setup = setup_of(["1", "2", "3", "4", "5"], {"noise": noise})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = chunk_rows(setup, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert chunk_rows(setup, 0) == first
    assert chunk_rows(setup_of(["1", "2", "3", "4", "5"], {"noise": noise}, seed=1), 0) != first


def test_threads_and_switches_come_back_also_on_failure():
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    seen = []

    def look(model, x, target):
        seen.append((torch.get_num_threads(), torch.backends.cudnn.deterministic))
        raise MissingDependencyError("stop")

    with pytest.raises(MissingDependencyError):
        chunk_rows(setup_of(["1"], {"look": look}, threads=1), 0)
    assert seen == [(1, True)]
    assert (torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before


def test_a_metric_gets_what_it_names():
    seen = {}

    def curious(model, x, heatmap, target, *, explainer, label):
        seen.update(explainer=explainer, label=label.tolist(), model=model)
        return {"total": heatmap.sum(dim=(1, 2))}

    chunk_rows(setup_of(["1", "2"], measures=[Measure(curious, ("total",)), Measure(total, ("total",))]), 0)
    assert seen["explainer"] is itself
    assert seen["label"] == [0, 1]
    assert isinstance(seen["model"], Sums)


def test_boxes_go_through_the_pictures_own_resize_and_crop(tmp_path):
    """A 16 x 8 picture is cropped to its middle 8 x 8, columns 4 to 11; the box covers columns 6 to 9, rows 2 and 3."""
    from PIL import Image

    Image.new("RGB", (16, 8)).save(tmp_path / "0_a.png")
    seen = Seen(open_dataset(f"folder:{tmp_path}"), Preprocess(size=8, resize=8))
    inside = seen.inside(Sample("0_a.png", 0, boxes=((6.0, 2.0, 4.0, 2.0),)))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 2:6] = True
    assert torch.equal(inside, expected)


@dataclass(frozen=True)
class Counted(ByChannel):
    """Attributes the picture itself, and counts how often."""

    calls: tuple[list[int], ...] = ()
    channels: str = "sum"

    def attribute(self, model, x, target):
        self.calls[0].append(len(x))
        return x.clone()

    def __hash__(self):
        return hash(self.channels)


def test_maps_that_differ_in_channels_alone_share_their_attribution():
    calls = ([],)
    explainers = {"sum": Counted(calls), "red": Counted(calls, "red")}
    rows = chunk_rows(setup_of(["3", "5"], explainers), 0)
    assert values(rows) == [(s, e, "none", 4.0 * int(s)) for s in ("3", "5") for e in ("sum", "red")]
    assert calls == ([2],)


def test_a_plan_can_name_the_maps_and_all_of_a_protocol_are_scored_together():
    seen = []

    def stacked(model, x, heatmap, target):
        seen.append(tuple(heatmap.shape[:2]))
        return {"total": heatmap.sum((2, 3))}

    measures = [Measure(stacked, ("total",), protocol=name, stacks=True) for name in ("a", "b")]
    explainers = {"itself": itself, "twice": lambda model, x, target: 2 * x.sum(1)}
    posts = {"none": lambda heatmap: heatmap, "minus": lambda heatmap: -heatmap}
    only = ("a itself none", "a twice minus", "b twice none")
    setup = setup_of(["3", "5"], explainers, posts, measures, only=only, protocols=("a", "b"))
    rows = chunk_rows(setup, 0)
    assert seen == [(2, 2), (1, 2)]
    assert [(r.protocol, r.explainer, r.post, r.value) for r in rows if r.sample == "3"] == [
        ("a", "itself", "none", 12.0),
        ("a", "twice", "minus", -24.0),
        ("b", "twice", "none", 24.0),
    ]
    assert Plan.from_json(setup.plan.to_json()) == setup.plan
    assert "only" not in replace(setup.plan, only=()).to_json()  # plans without keep the digest that they had


def test_a_map_that_fails_on_one_sample_leaves_the_others_scored():
    def fails_on_5(model, x, target):
        if (x == 5).any():
            raise ValueError("no 5")
        return x.sum(1)

    measures = [Measure(lambda model, x, heatmap, target: {"total": heatmap.sum((2, 3))}, ("total",), stacks=True)]
    rows = chunk_rows(setup_of(["3", "5"], {"fails": fails_on_5, "itself": itself}, measures=measures), 0)
    assert values(rows) == [
        ("3", "fails", "none", 12.0),
        ("3", "itself", "none", 12.0),
        ("5", "fails", "none", None),
        ("5", "itself", "none", 20.0),
    ]
