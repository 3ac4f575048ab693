"""How long an explanation will still take."""

from __future__ import annotations

from relprop.sessions import DRAW, PREPARE
from relprop.web.pace import Pace


def test_what_is_left_is_the_rest_of_this_stage_and_all_of_the_others():
    pace = Pace({("a", PREPARE): 1.0, ("a", "lrp"): 8.0, ("a", DRAW): 2.0, ("b", "lrp"): 100.0})
    assert pace.left("a", (PREPARE, "lrp", DRAW), 0.25) == 10.75
    assert pace.left("a", ("lrp", DRAW), 3.0) == 7.0
    assert pace.left("a", ("lrp", DRAW), 30.0) == 2.0  # longer than the last time: it may end at any moment


def test_a_method_that_is_not_known_lasts_as_long_as_the_longest_that_is():
    pace = Pace()
    assert pace.left("a", (PREPARE, "lrp", DRAW), 0.0) is None
    pace.note("a", PREPARE, 50.0)
    assert pace.left("a", ("lrp", DRAW), 0.5) is None  # which preparing says nothing of
    pace.note("a", "lrp", 6.0)
    assert pace.left("a", ("cuts", "cam", DRAW), 2.0) == 10.0
    assert pace.left("b", ("cuts", DRAW), 2.0) is None
    pace.note("a", "cuts", 1.0)
    pace.note("a", "lrp", 4.0)  # the last time counts
    assert pace.left("a", ("lrp", "cuts"), 0.0) == 5.0
