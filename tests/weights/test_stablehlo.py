"""Programs of JAX: their numbers beside the Haiku encoder's, and the sizes that they take."""

import numpy as np
import pytest
from jax import export

import tiny_encoders
from byol_jax.weights import stablehlo
from tiny_encoders import SPECS


def load(path):
    return export.deserialize(bytearray(path.read_bytes()))


@pytest.mark.parametrize(("name", "sizes"), [("basic", (64,)), ("solo-learn", (8, 32))])
def test_it_has_the_numbers_of_the_encoder(tmp_path, name, sizes):
    spec = SPECS[name]
    stablehlo.write(tmp_path / "program", *tiny_encoders.draw(spec), spec, 64)
    program = load(tmp_path / "program")
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for size in sizes:
        images, expected = tiny_encoders.embedded(spec, size)
        values = np.asarray(program.call(images))
        assert tiny_encoders.distance(values, expected) < tiny_encoders.TOLERANCE


@pytest.mark.parametrize(
    ("stem", "size", "shape"),
    [
        ("imagenet", 224, "(b, 32*h, 32*w, 3)"),
        ("small", 32, "(b, 8*h, 8*w, 3)"),
        ("imagenet", 225, "(b, 225, 225, 3)"),
    ],
)
def test_sides_are_multiples_of_the_strides_or_fixed(stem, size, shape):
    spec = SPECS["basic"]._replace(stem=stem)
    assert stablehlo.symbolic_shape(spec, size) == shape


def test_a_fixed_size_is_taken(tmp_path):
    spec = SPECS["solo-learn"]
    stablehlo.write(tmp_path / "program", *tiny_encoders.draw(spec), spec, 33)
    images, expected = tiny_encoders.embedded(spec, 33)
    values = np.asarray(load(tmp_path / "program").call(images))
    assert tiny_encoders.distance(values, expected) < tiny_encoders.TOLERANCE
