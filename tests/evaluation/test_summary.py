from __future__ import annotations

import csv
import io
import math

import pytest
from setup_doubles import plan_of

from relprop.errors import RunError, UnknownNameError
from relprop.evaluation import Row, Rows

AGREED = ["explainer", "post", "metric", "protocol", "ties", "mean", "standard_error", "n", "failures"]
SCORES = {"lrp": (1.0, 2.0, 6.0), "grad-cam": (0.0, 2.0, None), "constant": (1.0, 1.0, 1.0)}


def rows_of(
    scores=SCORES, protocol: str = "fair", ties: str = "shuffled", metric: str = "insertion", **changes
) -> Rows:
    rows = [
        Row(f"s{at}", 0, 0, explainer, "none", metric, protocol, ties, value, None if value is not None else "too hard")
        for explainer, values in scores.items()
        for at, value in enumerate(values)
    ]
    return Rows(plan_of(explainers=tuple(scores), **changes), tuple(rows))


def test_mean_standard_error_n_and_failures_by_hand():
    lrp, grad_cam, constant = rows_of().summary().lines
    # 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7
    assert (lrp.explainer, lrp.mean, lrp.n, lrp.failures) == ("lrp", 3.0, 3, 0)
    assert lrp.standard_error == pytest.approx(math.sqrt(7 / 3), abs=1e-12)
    assert (grad_cam.mean, grad_cam.standard_error, grad_cam.n, grad_cam.failures) == (1.0, 1.0, 2, 1)
    assert (constant.mean, constant.standard_error) == (1.0, 0.0)


def test_paired_differences_by_hand():
    lrp, grad_cam, constant = rows_of().summary(versus="grad-cam").lines
    # over s0 and s1, where both have a value: 1 - 0 and 2 - 2
    assert (lrp.difference, lrp.difference_error, lrp.pairs) == (0.5, 0.5, 2)
    assert (grad_cam.difference, grad_cam.difference_error, grad_cam.pairs) == (0.0, 0.0, 2)
    assert (constant.difference, constant.difference_error, constant.pairs) == (0.0, 1.0, 2)


def test_pairing_is_by_sample_and_not_by_place():
    rows = rows_of()
    shuffled = Rows(rows.plan, rows.rows[::-1])
    assert sorted(shuffled.summary("grad-cam").lines, key=repr) == sorted(rows.summary("grad-cam").lines, key=repr)


def test_differences_against_something_that_is_not_there():
    with pytest.raises(RunError, match=r"nothing in this run is called 'gradcam'; .* lrp, grad-cam, constant"):
        rows_of().summary(versus="gradcam")


def test_one_value_has_no_standard_error_and_none_has_no_mean():
    one, none = rows_of({"lrp": (1.0,), "grad-cam": (None,)}).summary().lines
    assert (one.mean, one.standard_error, one.n) == (1.0, None, 1)
    assert (none.mean, none.standard_error, none.n, none.failures) == (None, None, 0, 1)
    text = rows_of({"lrp": (1.0,), "grad-cam": (None,)}).summary().format("text")
    assert [line.split() for line in text.splitlines()[4:6]] == [
        ["lrp", "none", "1.0000", "1", "0"],
        ["grad-cam", "none", "-", "0", "1"],
    ]


def test_controls_come_last_and_their_absence_is_said():
    lines = rows_of({"constant": (1.0,), "lrp": (2.0,)}).summary().lines
    assert [line.explainer for line in lines] == ["lrp", "constant"]
    assert rows_of({"constant": (1.0,), "random": (1.0,)}).summary().notes == ()
    assert rows_of({"lrp": (1.0,)}).summary().notes == (
        "There is no constant and no random control in this run: nothing shows what the metrics give away.",
    )


def test_failures_and_unreadable_pictures_are_said_with_a_reason():
    rows = rows_of()
    lost = Row("s9", 0, None, "lrp", "none", "insertion", "fair", "shuffled", None, "s9 is damaged")
    summary = Rows(rows.plan, (*rows.rows, lost)).summary()
    assert "1 pictures could not be read, for example: s9 is damaged" in summary.notes
    assert "grad-cam failed on 1 samples, for example: too hard" in summary.notes
    assert summary.unread == 1


def test_a_protocol_that_rewards_ties_is_not_left_alone():
    beside = "Tied pixels change together here, which rewards maps with many ties: read it beside --protocol fair."
    assert beside in rows_of(protocol="paper-protocol", ties="together").summary().notes
    assert beside not in rows_of().summary().notes
    assert "Protocol paper-protocol, ties together" in str(
        rows_of(protocol="paper-protocol", ties="together").summary()
    )


def test_csv_has_the_agreed_columns_in_full_precision():
    lines = list(csv.DictReader(io.StringIO(rows_of().summary().format("csv"))))
    assert list(lines[0]) == AGREED
    assert lines[0]["standard_error"] == repr(math.sqrt(7) / math.sqrt(3))
    assert lines[1]["failures"] == "1"
    versus = next(csv.DictReader(io.StringIO(rows_of().summary("grad-cam").format("csv"))))
    assert (versus["difference"], versus["difference_error"], versus["pairs"]) == ("0.5", "0.5", "2")


def test_markdown_and_latex():
    table = rows_of().summary("grad-cam").format("markdown").splitlines()
    assert table[:5] == [
        "**Protocol fair, ties shuffled**",
        "",
        "| explainer | post | insertion | insertion - grad-cam | n | failures |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| lrp | none | 3.0000 ± 1.5275 | +0.5000 ± 0.5000 | 3 | 0 |",
    ]
    latex = rows_of({"a_b": (1.0, 3.0)}).summary().format("latex")
    assert r"a\_b & none & 2.0000 $\pm$ 1.0000 & 2 & 0 \\" in latex
    assert latex.count(r"\begin{tabular}{llrrr}") == latex.count(r"\end{tabular}") == 1
    with pytest.raises(UnknownNameError, match="did you mean 'markdown'"):
        rows_of().summary().format("markdwn")


def test_insertion_deletion_and_id_stand_in_this_order():
    rows = tuple(
        row for metric in ("id", "deletion", "insertion") for row in rows_of({"lrp": (1.0,)}, metric=metric).rows
    )
    summary = Rows(plan_of(explainers=("lrp",)), rows).summary()
    assert [line.metric for line in summary.lines] == ["insertion", "deletion", "id"]


def test_rows_become_frames():
    frame = rows_of().to_polars()
    assert frame.shape == (9, 11)
    assert frame["value"].to_list() == [1.0, 2.0, 6.0, 0.0, 2.0, None, 1.0, 1.0, 1.0]
    assert rows_of().to_pandas()["value"].sum() == 14.0
