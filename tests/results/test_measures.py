"""The units and directions of metrics, wherever a number of one is printed."""

import pytest

from byol_jax.jobs import card
from byol_jax.results import measures, tables
from experiments import paper_tables
from tiny_records import make_record

ERRORS = {"rms": "m", "rel": "1", "log10": "1"}


def test_errors_of_depth_are_not_accuracies():
    for metric, measure in measures.MEASURES.items():
        is_error = metric in ERRORS
        assert measure.lower_is_better == is_error, metric
        assert measure.unit == ERRORS.get(metric, "1" if metric == "std_sqrt_dim" else "percent")


def test_every_printed_number_has_its_measure():
    """The unit and the direction of a number of a table must be known, or it is misread."""
    printed = {
        number.metric
        for cells in paper_tables.TABLES.values()
        for cell in cells
        for number in cell.numbers
    }
    assert printed <= {*measures.MEASURES}
    assert {"rms", "rel", "mIoU", "pct1.25^3"} <= printed


@pytest.mark.parametrize(
    ("metric", "unit", "value", "text"),
    [
        ("top1", "percent", 75.04, "75.0"),
        ("rms", "m", 0.5414, "0.541"),
        ("rel", "1", 0.1291, "0.129"),
        ("std_sqrt_dim", "1", 0.93, "0.9"),
        ("of_someones_own", "percent", 12.34, "12.3"),
        ("of_someones_own", "nats", 0.01234, "0.0123"),
    ],
)
def test_as_many_digits_as_the_metric_needs(metric, unit, value, text):
    assert measures.number(value, measures.of(metric, unit)) == text


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "decimals", "text"),
    [
        ("top1", 75.04, 91.3, 1, "-16.3"),
        ("pct1.25", 85.0, 84.6, 1, "+0.4"),
        ("rms", 0.529, 0.541, 3, "-0.012 (better)"),
        ("rel", 0.134, 0.129, 3, "+0.005 (worse)"),
        ("rel", 0.1292, 0.129, 3, "+0.000"),  # nothing that the paper's digits could tell
        ("rms", 0.5408, 0.541, 3, "+0.000"),
    ],
)
def test_a_difference_says_what_its_sign_means(metric, ours, theirs, decimals, text):
    assert tables.difference(metric, ours, theirs, decimals) == text


DEPTH = [
    make_record(metric="pct1.25", value=84.64, protocol="nyuv2"),
    make_record(
        **{"metric": "rms", "unit": "m", "value": 0.5414, "protocol": "nyuv2"},
        settings={"standard_error": 0.0031, "paper_value": 0.541},
    ),
    make_record(metric="rel", unit="1", value=0.1286, protocol="nyuv2"),
]


def test_a_table_of_records_has_their_units():
    header, line = tables.format_table(DEPTH).split("\n")[1:]
    assert " ".join(header.split()) == (
        "network nyuv2 pct1.25 (%) nyuv2 rms (m, lower is better) nyuv2 rel (1, lower is better)"
    )
    assert line.split() == ["online", "84.6", "0.541", "+-", "0.003", "0.129"]


def test_a_card_has_their_units():
    lines = [" ".join(line.split()) for line in card._numbers(DEPTH)]
    assert lines[2].endswith("| pct1.25 (%) | 84.6 | - |")
    assert lines[3].endswith("| rms (m, lower is better) | 0.541 +- 0.003 | 0.541 |")
    assert lines[4].endswith("| rel (1, lower is better) | 0.129 | - |")
