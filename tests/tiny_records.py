"""A record of a made-up evaluation."""

from typing import Any

from byol_jax.results.records import Record


def make_record(**changes: Any) -> Record:
    """Linear top-1 on digits; `changes` are fields."""
    record = Record(
        metric="top1",
        value=95.28,
        unit="percent",
        protocol="linear",
        network="online",
        dataset="digits",
        split="test",
        n_examples=360,
        checkpoint_step=500,
        seed=0,
        settings={"l2": 0.1},
    )
    return record._replace(**changes)
