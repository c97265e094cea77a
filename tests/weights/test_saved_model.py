"""SavedModels: their numbers beside the Haiku encoder's."""

import pytest

import tiny_encoders
from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.weights import layout, saved_model
from tiny_encoders import SPECS

pytestmark = pytest.mark.slow


def written(folder, spec, **changes):
    arrays = layout.to_torch(*tiny_encoders.draw(spec))
    saved_model.write(folder, arrays, spec._replace(**changes))
    return import_tensorflow().saved_model.load(str(folder))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("basic", (64, 65, 96)),
        ("bottleneck", (64,)),
        ("identity", (64, 65)),
        ("solo-learn", (32, 33)),
    ],
)
def test_it_has_the_numbers_of_the_encoder_at_any_size(tmp_path, name, sizes):
    spec = SPECS[name]
    model = written(tmp_path, spec)
    for size in sizes:
        images, expected = tiny_encoders.embedded(spec, size)
        for embed in (model.embed, model.signatures["serving_default"]):
            values = embed(images=images)["embedding"].numpy()
            assert tiny_encoders.distance(values, expected) < tiny_encoders.TOLERANCE


def test_symmetric_padding_is_seen_by_the_same_measure(tmp_path):
    model = written(tmp_path, SPECS["basic"], padding="torch")
    for size, differs in ((64, True), (65, False)):
        images, expected = tiny_encoders.embedded(SPECS["basic"], size)
        distance = tiny_encoders.distance(model.embed(images)["embedding"].numpy(), expected)
        assert distance > 1e-2 if differs else distance < tiny_encoders.TOLERANCE
