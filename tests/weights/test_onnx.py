"""ONNX files: their numbers beside the Haiku encoder's, their names, and the padding trap."""

import onnxruntime
import pytest

import tiny_encoders
from byol_jax.weights import hub, layout, onnx
from tiny_encoders import SPECS


def run(model, images):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (embedding,) = session.run([onnx.OUTPUT], {onnx.INPUT: tiny_encoders.channels_first(images)})
    return embedding


def model_of(spec, **changes):
    arrays = layout.to_torch(*tiny_encoders.draw(spec))
    return onnx.model_of(arrays, spec._replace(**changes), hub.dim_of(spec), {})


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("basic", (64, 65, 96)),
        ("bottleneck", (64, 65)),
        ("small", (33,)),
        ("identity", (64, 65)),
        ("solo-learn", (32, 33)),
    ],
)
def test_it_has_the_numbers_of_the_encoder_at_any_size(name, sizes):
    spec = SPECS[name]
    model = model_of(spec)
    for size in sizes:
        images, expected = tiny_encoders.embedded(spec, size)
        assert tiny_encoders.distance(run(model, images), expected) < tiny_encoders.TOLERANCE


def test_any_number_of_images_is_taken():
    spec = SPECS["solo-learn"]
    images, expected = tiny_encoders.embedded(spec, 32, 5)
    values = run(model_of(spec), images)
    assert tiny_encoders.distance(values, expected) < tiny_encoders.TOLERANCE


def test_symmetric_padding_is_seen_by_the_same_measure():
    """The mistake that it guards against; at 65 pixels there is no difference to see."""
    spec = SPECS["basic"]
    model = model_of(spec, padding="torch")
    for size, differs in ((64, True), (65, False)):
        images, expected = tiny_encoders.embedded(spec, size)
        distance = tiny_encoders.distance(run(model, images), expected)
        assert distance > 1e-2 if differs else distance < tiny_encoders.TOLERANCE


def test_arrays_are_named_as_in_pytorch():
    spec = SPECS["bottleneck"]
    model = model_of(spec)
    names = {tensor.name for tensor in model.graph.initializer}
    assert names == set(layout.expected(spec))
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert [node.op_type for node in model.graph.node].count("Conv") == 53


def test_the_model_says_what_it_is():
    spec = SPECS["solo-learn"]
    arrays = layout.to_torch(*tiny_encoders.draw(spec))
    model = onnx.model_of(arrays, spec, hub.dim_of(spec), {"step": 7})
    assert model.metadata_props[0].key == "byol_jax"
    assert model.metadata_props[0].value == '{"step": 7}'
    (output,) = model.graph.output
    assert output.type.tensor_type.shape.dim[1].dim_value == hub.dim_of(spec) == 8
