"""The published numbers, transcribed a second time."""

import pytest

from relprop.errors import UsageError
from relprop.reproduce.published import published

IMAGENET = {
    "table1": {
        "LRP": (9.5, 8.3, 1.1),
        "Integrated Gradients": (5.2, 6.2, -1.1),
        "Guided Backprop": (11.5, 5.7, 5.7),
        "Grad-CAM": (49.7, 12.6, 37.1),
        "Score-CAM": (48.8, 13.3, 35.5),
        "proposed": (56.3, 1.8, 54.5),
    },
    "table2": {
        "(i) symmetric, not at identity joins": (0.543, 0.033, 0.510),
        "(ii) symmetric, at all joins": (0.553, 0.036, 0.517),
        "(iii) ratio-based, not at identity joins": (0.543, 0.033, 0.510),
        "(iv) ratio-based, at all joins": (0.563, 0.018, 0.545),
    },
    "table3": {
        "(i) without Heat Quantization": (0.442, 0.066, 0.376),
        "(ii) with Heat Quantization": (0.543, 0.033, 0.510),
    },
}
CUB = {
    "LRP": ((5.8, 4.7, 1.1), (0.2, 0.1, 0.0)),
    "Integrated Gradients": ((2.0, 1.5, 0.6), (0.1, 0.1, 0.0)),
    "Guided Backprop": ((4.2, 1.4, 2.8), (0.2, 0.1, 0.2)),
    "Grad-CAM": ((50.8, 5.5, 45.3), (1.5, 0.4, 1.1)),
    "Score-CAM": ((51.1, 5.4, 45.7), (1.7, 0.4, 1.4)),
    "proposed": ((59.5, 1.4, 58.2), (1.0, 0.0, 1.0)),
}


@pytest.mark.parametrize("table", IMAGENET)
def test_every_row_on_imagenet(table):
    found = published(table)
    assert {row.name: row.values for row in found.rows} == IMAGENET[table]
    assert (found.network, found.data, found.samples, found.models) == ("ResNet-50", "ImageNet", 1000, 1)
    assert found.percent == (table == "table1")


def test_every_row_on_cub():
    found = published("table1", "cub")
    assert {row.name: (row.values, row.deviations) for row in found.rows} == CUB
    assert found.models == 5


@pytest.mark.parametrize(("table", "against"), [(t, "imagenet") for t in IMAGENET] + [("table1", "cub")])
def test_id_is_insertion_less_deletion_to_the_printed_digit(table, against):
    found = published(table, against)
    unit = 0.1 if found.percent else 0.001
    for insertion, deletion, both in (row.values for row in found.rows):
        assert abs(insertion - deletion - both) < (1.01 if found.percent else 0.01) * unit  # Table 1 was rounded apart


def test_tables_agree_where_they_say_the_same():
    i, _, iii, iv = (row.values for row in published("table2").rows)
    assert published("table3").row("ii").values == i == iii
    assert published("table1").row("proposed").values == pytest.approx([100 * value for value in iv])


@pytest.mark.parametrize("table", ["table2", "table3"])
def test_cub_has_one_table(table):
    with pytest.raises(UsageError, match="for ImageNet alone; leave --against cub out"):
        published(table, "cub")
