"""Records and rows of text as tables."""

from byol_jax.results import tables
from tiny_records import make_record

ROWS = [["cell", "paper", "words"], ["a row", "9.1", "some of them"], ["b", "10.25", ""]]


def test_rows_are_aligned():
    assert tables.aligned(ROWS, left=(0, 2)) == [
        "cell   paper  words",
        "a row    9.1  some of them",
        "b      10.25",
    ]


def test_rows_in_markdown():
    assert tables.markdown(ROWS) == [
        "| cell  | paper | words |",
        "| ----- | ----- | ----- |",
        "| a row | 9.1   | some of them |",
        "| b     | 10.25 |       |",
    ]


def test_a_difference_that_rounds_to_zero_has_no_minus():
    assert [tables.signed(v) for v in (-0.04, 0.0, 0.04, -0.06, 1.26)] == [
        *("+0.0", "+0.0", "+0.0", "-0.1", "+1.3")
    ]


def test_table_golden():
    few = {"protocol": "linear/2-per-class"}
    records = [
        make_record(),
        make_record(network="target", value=94.0),
        make_record(network="pixels", value=9.96, checkpoint_step=None),
        make_record(value=71.25, settings={"standard_error": 0.64}, **few),
        make_record(
            network="random",
            value=55.5,
            checkpoint_step=None,
            settings={"standard_error": 1},
            **few,
        ),
        make_record(metric="std_sqrt_dim", unit="1", protocol="projection", value=0.93),
    ]
    assert tables.format_table(records).split("\n") == [
        "digits, test split, 360 examples, checkpoint step 500, seed 0",
        "network  linear top1 (%)  linear/2-per-class top1 (%)  projection std_sqrt_dim (1)",
        "pixels              10.0                            -                            -",
        "random                 -                  55.5 +- 1.0                            -",
        "target              94.0                            -                            -",
        "online              95.3                  71.2 +- 0.6                          0.9",
    ]


def test_a_spread_is_explained_where_there_is_one():
    spread = make_record(metric="std_sqrt_dim", unit="1", protocol="projection", value=0.93)
    (line,) = tables.notes([make_record(), spread, spread._replace(network="target")])
    assert line.startswith("std_sqrt_dim is ") and "0 = collapsed" in line
    assert tables.notes([make_record()]) == []


def test_two_solvers_of_one_protocol_are_two_columns():
    records = [
        make_record(settings={"solver": "lbfgs"}),
        make_record(settings={"solver": "sgd"}, value=90.0),
        make_record(protocol="knn", value=80.0),
    ]
    assert tables.format_table(records).split("\n")[1:] == [
        "network  linear by lbfgs top1 (%)  linear by sgd top1 (%)  knn top1 (%)",
        "online                       95.3                    90.0          80.0",
    ]


def test_one_table_per_step_dataset_and_seed():
    pixels = make_record(network="pixels", value=90.0, checkpoint_step=None)
    records = [
        make_record(checkpoint_step=1000, value=97.0),
        make_record(checkpoint_step=500, value=96.0),
        pixels,
        make_record(network="random", value=80.0, checkpoint_step=500),
        pixels._replace(dataset="npz:mine.npz", n_examples=12),
        pixels._replace(seed=1, n_examples=7),
        pixels._replace(seed=1, protocol="knn", n_examples=9),
    ]
    assert tables.format_table(records).split("\n") == [
        "digits, test split, 360 examples, checkpoint step 500, seed 0",
        "network  linear top1 (%)",
        "pixels              90.0",
        "random              80.0",
        "online              96.0",
        "",
        "digits, test split, 360 examples, checkpoint step 1000, seed 0",
        "network  linear top1 (%)",
        "pixels              90.0",
        "online              97.0",
        "",
        "npz:mine.npz, test split, 12 examples, checkpoint step -, seed 0",
        "network  linear top1 (%)",
        "pixels              90.0",
        "",
        "digits, test split, 7 or 9 examples, checkpoint step -, seed 1",
        "network  linear top1 (%)  knn top1 (%)",
        "pixels              90.0          90.0",
    ]
