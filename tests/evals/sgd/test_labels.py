"""The metrics that go with labels."""

import pytest

from byol_jax.errors import UserError
from byol_jax.evals.sgd.labels import check_metric


@pytest.mark.parametrize(
    ("metric", "multi_label", "words"),
    [
        ("top1", True, "metric='top1'.*map_11"),
        ("map_11", False, "metric='map_11'.*top1"),
        ("top5", False, "metric='top5'.*mean_per_class"),
    ],
)
def test_metrics_go_with_labels(metric, multi_label, words):
    with pytest.raises(UserError, match=words):
        check_metric(metric, multi_label)
    for allowed, kind in (("top1", False), ("mean_per_class", False), ("map_11", True)):
        check_metric(allowed, kind)
