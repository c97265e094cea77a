"""The authors' pickles: the golden embeddings, and files that are refused unread."""

import collections
import pathlib
import pickle
import struct
from typing import Any

import jax
import numpy as np
import pytest

import byol_jax
import golden_data
from byol_jax import weights
from byol_jax.augment import byol
from byol_jax.errors import UserError
from byol_jax.networks import siamese
from byol_jax.weights import pickles, released

# Relative norm of the difference, from the golden README.
TOLERANCE = 1e-4


def file(name: str) -> pathlib.Path:
    return golden_data.folder() / f"released_style.{name}"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(file("npz"), allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def trained() -> weights.Trained:
    return weights.load(file("pkl"))


def norm_of_difference(value: Any, golden: np.ndarray) -> float:
    return float(np.linalg.norm(value - golden) / np.linalg.norm(golden))


@pytest.mark.parametrize("name", ["online", "target"])
def test_the_networks_are_the_authors_own(
    trained: weights.Trained, golden: dict[str, np.ndarray], name: str
) -> None:
    network = siamese.siamese(trained.network)
    params, state = (getattr(trained, f"{name}_{tree}") for tree in ("params", "state"))
    views = byol.normalize(golden["images"])
    outputs, _ = jax.jit(network.apply, static_argnums=4)(params, state, None, views, False)
    for output in ("embedding", "projection"):
        assert norm_of_difference(outputs[output], golden[f"{name}_{output}"]) < TOLERANCE


@pytest.mark.parametrize("name", ["online", "target"])
def test_an_encoder_is_loaded_from_a_pickle(golden: dict[str, np.ndarray], name: str) -> None:
    encode = byol_jax.load_encoder(file("pkl"), network=name)
    assert norm_of_difference(encode(golden["images"]), golden[f"{name}_embedding"]) < TOLERANCE


def test_what_is_known_of_a_pickle(trained: weights.Trained) -> None:
    assert trained.has_heads and trained.method == "byol" and trained.licence == "CC BY-NC 4.0"
    assert (trained.dataset, trained.recipe, trained.total_steps) == (None, None, None)
    assert trained.network == siamese.make_spec(
        trained.config["network"], trained.network.num_classes
    )


def changed(change: Any) -> Any:
    """The content of the golden pickle after a change, in the reader's own form."""
    content = released.content_of(file("pkl"))
    change(content)
    return content


def test_suffixes_of_later_versions_are_tolerated(
    trained: weights.Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(content: Any) -> None:
        state = content["experiment_state"]
        for name in released.TREES:
            tree = state[name]
            for module in [*tree]:
                new = module.replace("initial_conv", "initial_conv_1").replace(
                    "initial_batchnorm", "initial_batchnorm_1"
                )
                tree[new] = tree.pop(module)

    content = changed(rename)
    monkeypatch.setattr(released, "content_of", lambda path: content)
    renamed = released.read(file("pkl"))
    jax.tree.map(np.testing.assert_array_equal, renamed.online_params, trained.online_params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["experiment_state"]["target_params"].pop("projector/linear"),
            "target_params lacks projector/linear/",
        ),
        (
            lambda c: c["experiment_state"]["online_state"].update(more={"x": np.zeros(2)}),
            "online_state has 'more/x'",
        ),
        (
            lambda c: c["experiment_state"]["target_params"]["classifier"].update(b=np.zeros(3)),
            r"target_params/classifier/b is \[3\] instead of \[10\]",
        ),
        (
            lambda c: c["experiment_state"]["online_params"]["classifier"].update(b=[1, 2]),
            "online_params/'classifier'/'b' is no array",
        ),
        (lambda c: c.pop("experiment_state"), "holds no pre-training of BYOL's authors"),
    ],
)
def test_names_and_shapes_are_compared(
    change: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = changed(change)
    monkeypatch.setattr(released, "content_of", lambda path: content)
    with pytest.raises(UserError, match=message) as caught:
        released.read(file("pkl"))
    assert "released_style.pkl" in str(caught.value) and "\n" not in str(caught.value)


def call(module: str, name: str, arguments: bytes = b"(") -> bytes:
    """A pickle of protocol 2 that calls a function."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"tR."


def text(word: str) -> bytes:
    """The opcode of a string."""
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def attribute(module: str, name: str, key: str) -> bytes:
    """A pickle that sets an attribute of a name to 1."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"N}" + text(key) + b"K\x01s\x86b."


def object_array() -> bytes:
    return pickle.dumps(np.array([print, 1], dtype=object), protocol=2)


HOSTILE = {
    "a shell": call("posix", "system", b"(" + text("touch ran")),
    "eval": call("builtins", "eval", b"(" + text("open('ran','w')")),
    "getattr": call("builtins", "getattr", b"(" + text("x") + text("y")),
    "a class of dill": call("dill._dill", "_create_type", b"("),
    "numpy.load": call("numpy", "load", b"(" + text("ran")),
    "functools.partial": call("functools", "partial", b"("),
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofile\x93.",
    "a function of optax": call("optax._src.base", "apply_updates", b"("),
    "an array of objects": object_array(),
    "another function for an array": call(
        "jax._src.array", "_reconstruct_array", b"(c_codecs\nencode\n" + b")(tN"
    ),
    "an attribute of a stand-in": attribute("numpy.core.multiarray", "scalar", "build"),
    "a reference outside of the file": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "a huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "a huge array": call(
        "jax._src.array",
        "_reconstruct_array",
        b"(cnumpy.core.multiarray\n_reconstruct\n)(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\n"
        + b"(" + text("f4") + b"tR\x89c_codecs\nencode\n(" + text("abcd") + text("latin1")
        + b"tRtN",
    ),
    "a class by its number": b"\x80\x02\x82\x01.",
    "text": b"hello\n",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(
    tmp_path: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pkl"
    path.write_bytes(HOSTILE[name])
    words = "is not a pickle that BYOL's authors released|holds no pre-training"
    with pytest.raises(UserError, match=words) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == [path]


def test_the_huge_array_is_refused_for_its_size(tmp_path: pathlib.Path) -> None:
    """Not for a mistake in the test's own bytes: with one number in the shape it is read."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(HOSTILE["a huge array"].replace(b"J\xff\xff\xff\x7f", b"K\x01"))
    array = pickles.read(path)
    np.testing.assert_array_equal(array.value, np.frombuffer(b"abcd", np.float32))
    path.write_bytes(HOSTILE["a huge array"])
    with pytest.raises(UserError, match=r"an instruction without its values, .* \(ValueError\)"):
        weights.load(path)


# Files of a few hundred bytes to half a megabyte that take gigabytes, minutes or the interpreter
# itself of a reader that copies, formats or hashes what it is given.
def doubled(count: int) -> bytes:
    """A list of two of a list of two of ..., `count` deep."""
    return b"]" + b"".join(b"q" + bytes([i]) + b"0](h%ch%ce" % (i, i) for i in range(count))


BOMBS = {
    "a deep key": b"\x80\x02})" + b"\x85" * 150_000 + b"Ns.",
    "a doubled key": b"\x80\x02}N" + b"q\x01h\x01\x86" * 40 + b"Ns.",
    "a doubled reference": b"\x80\x02" + doubled(40) + b"Q.",
    "a doubled dtype": b"\x80\x02cnumpy\ndtype\n(" + doubled(40) + b"tR.",
    "a doubled encoding": b"\x80\x02c_codecs\nencode\n(" + text("a") + doubled(40) + b"tR.",
    "doubled fields": b"\x80\x02cdill._dill\n_create_namedtuple\n(N" + doubled(40) + b"tR.",
    "one text encoded often": b"\x80\x02c_codecs\nencode\nq\x000"
    + text("a" * 100_000) + b"q\x010" + text("latin1") + b"q\x020]"
    + b"h\x00h\x01h\x02\x86Ra" * 40_000 + b".",
    "one dict copied often": b"\x80\x02chaiku._src.data_structures\nFlatMapping\nq\x000}("
    + b"".join(text(f"{i:04}") + b"N" for i in range(2000)) + b"uq\x010]"
    + b"h\x00h\x01\x85Ra" * 20_000 + b".",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(BOMBS[name])
    with pytest.raises(
        UserError, match=r"it has (values|a key|arrays|text|a field|the instr)"
    ) as e:
        weights.load(path)
    assert len(str(e.value)) < 500


def test_a_deep_value_is_no_tree(tmp_path: pathlib.Path) -> None:
    """Nothing walks through what is not used."""
    path = tmp_path / "weights.pkl"
    content = b"\x80\x02}" + text("experiment_state") + b")" + b"\x85" * 150_000 + b"s."
    path.write_bytes(content)
    with pytest.raises(UserError, match="holds no pre-training of BYOL's authors"):
        weights.load(path)


@pytest.mark.parametrize("step", ["x", None, -1, np.zeros(2, int), 1.5])
def test_the_step_is_a_count(step: object, monkeypatch: pytest.MonkeyPatch) -> None:
    content = changed(lambda c: c.update(step=step))
    monkeypatch.setattr(released, "content_of", lambda path: content)
    with pytest.raises(UserError, match="its step is no whole number"):
        released.read(file("pkl"))


def test_states_of_optimisers_are_read_over(tmp_path: pathlib.Path) -> None:
    """A class of optax by its name: neither refused nor kept."""
    content = b"\x80\x02coptax._src.transform\nTraceState\n(N\x85tR."
    path = tmp_path / "state.pkl"
    path.write_bytes(content)
    assert isinstance(released.content_of(path), pickles.Inert)


def test_ordinary_values_are_read(tmp_path: pathlib.Path) -> None:
    """Numbers, names and arrays as numpy itself pickles them."""
    value = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float64(2.5)}
    path = tmp_path / "values.pkl"
    path.write_bytes(pickle.dumps(collections.OrderedDict(value), protocol=2))
    content = released.content_of(path)
    np.testing.assert_array_equal(content["a"].value, value["a"])
    assert content["b"] == value["b"]
