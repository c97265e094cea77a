"""SupCon beside a loop over anchors and positives, partly labelled batches, and SimCLR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.objectives import simclr, supcon
from numbered import numbered

LABELS = {"all": [0, 1, 0, 2, 1], "some": [0, -1, 0, -1, 3], "none": [-1] * 5}


def views(seed: int = 0, rows: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, rows, 4))


def naive(arrays: np.ndarray, labels: list[int], temperature: float, base: float) -> np.ndarray:
    """L_out of each anchor, one after the other, as the paper's Eq. 2 reads: `[V, B]`."""
    count = len(labels)
    z = [row / np.linalg.norm(row) for view in arrays for row in view]
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        below = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        own, label = i % count, labels[i % count]
        of_class = [
            p for p in others if p % count == own or (label >= 0 and labels[p % count] == label)
        ]
        logs = [np.log(np.exp(z[i] @ z[p] / temperature) / below) for p in of_class]
        losses.append(-temperature / base * sum(logs) / len(logs))
    return np.reshape(losses, (2, count))


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(("temperature", "base"), [(0.1, 0.07), (0.5, 0.5)])
def test_it_is_the_loop(labels: list[int], temperature: float, base: float) -> None:
    arrays = views()
    expected = naive(arrays, labels, temperature, base)
    with jax.enable_x64(True):
        online = numbered([{"projection": jnp.asarray(view)} for view in arrays])
        batch = {"labels": jnp.asarray(labels)}
        rest = (batch, {}, jax.random.key(0), 0)
        found = supcon.supcon(temperature, base).loss({}, online, {}, *rest)
        one = supcon.supcon(temperature, base, "one").loss({}, online, {}, *rest)
    np.testing.assert_allclose(found.per_example, expected.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(one.per_example, expected[0], rtol=1e-10)
    related = [sum(1 for b in labels if b == a and a >= 0) or 1 for a in labels]
    np.testing.assert_allclose(found.logs["positives"], np.mean([2 * n - 1 for n in related]))


def test_without_labels_it_is_simclrs_loss() -> None:
    """NT-Xent over all 2N anchors, where T_base is T."""
    arrays = views(1)
    with jax.enable_x64(True):
        outputs = numbered(
            [{"projection": jnp.asarray(x), "prediction": jnp.asarray(x)} for x in arrays]
        )
        batch = {"labels": jnp.full(5, -1)}
        rest = (batch, {}, jax.random.key(0), 0)
        ours = supcon.supcon(0.2, 0.2).loss({}, outputs, {}, *rest)
        theirs = simclr.nt_xent(0.2).loss({}, outputs, outputs, *rest)
    np.testing.assert_allclose(ours.per_example, theirs.per_example, rtol=1e-10)


def test_an_anchor_without_positives_has_no_loss() -> None:
    """One view of two classes: the mean is over all anchors all the same."""
    similarity = jnp.eye(3) + 0.1
    is_self = jnp.eye(3, dtype=bool)
    labels, index = jnp.array([4, 4, 7]), jnp.arange(3)
    related = supcon.positives(labels, labels, index, index)
    losses = supcon.supcon_loss(similarity, is_self, related, 0.1, 0.1)
    np.testing.assert_allclose(losses, [np.log(2), np.log(2), 0], rtol=1e-5)
    gradient = jax.grad(lambda s: jnp.sum(supcon.supcon_loss(s, is_self, related, 0.1, 0.1)))(
        similarity
    )
    assert np.isfinite(gradient).all() and not np.any(gradient[2])


def test_unknown_anchors_are_refused() -> None:
    with pytest.raises(ValueError, match="anchors='two'"):
        supcon.supcon(anchors="two")
