"""Neighbours and maps of representations, on rows whose answer is known."""

import numpy as np
import pytest

from byol_jax.results import maps


def test_neighbours_are_ranked_by_cosine_and_leave_the_image_out():
    angles = np.radians([0, 10, 25, 90, 180])
    lengths = np.array([1, 100, 0.01, 5, 3])  # of no account
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]
    near = maps.neighbours(rows, np.array([0, 3]), 3)
    assert near.tolist() == [[1, 2, 3], [2, 1, 0]]
    assert maps.neighbours(rows, np.array([0]), 9).shape == (1, 4)


def test_principal_components_are_those_of_the_covariance():
    rows = np.random.default_rng(0).normal(size=(40, 6)) * [3, 2, 1, 1, 1, 1]
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = directions - directions.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, ::-1][:, :2]
    found = maps.principal(rows)
    assert found.coordinates.shape == (40, 50) and not found.coordinates[:, 6:].any()
    assert np.allclose(np.abs(found.coordinates[:, :2]), np.abs(expected), atol=1e-9)
    assert found.shares[:6] == pytest.approx(values[::-1] / values.sum(), rel=1e-9)


def test_a_collapsed_network_has_maps_of_one_place():
    rows = np.tile(np.array([0.3, -0.2, 0.1]), (20, 1)) * np.arange(1, 21)[:, None]
    found = maps.principal(rows)
    assert not found.coordinates.any() and not found.shares.any()
    assert not maps.tsne(found).any()


def test_rows_of_one_number_still_have_two_coordinates():
    found = maps.principal(np.arange(1.0, 9.0)[:, None], 2)
    assert found.coordinates.shape == (8, 2) and not found.coordinates.any()


def test_tsne_keeps_groups_apart_and_is_the_same_again():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 10) * 5, 20, axis=0)
    rows = centres + rng.normal(size=(60, 10)) * 0.1
    found = maps.tsne(maps.principal(rows))
    assert found.shape == (60, 2)
    means = found.reshape(3, 20, 2).mean(axis=1)
    within = np.linalg.norm(found.reshape(3, 20, 2) - means[:, None], axis=-1).max()
    between = min(np.linalg.norm(means[i] - means[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert between > 2 * within
    assert np.array_equal(found, maps.tsne(maps.principal(rows)))


def test_the_fewest_images_make_a_map():
    rows = np.random.default_rng(0).normal(size=(maps.FEWEST, 16))
    assert np.isfinite(maps.tsne(maps.principal(rows))).all()
