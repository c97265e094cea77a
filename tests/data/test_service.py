"""The tf.data service: the graph that workers run against the pipeline, and real servers."""

import contextlib
import importlib.util
import io
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import keys, train
from byol_jax.augment import boxes
from byol_jax.data import background, depth, images, pipeline, service, sources, tensorflow
from byol_jax.data.views import Reading, Stream, View, examples
from byol_jax.errors import GuardError, UserError
from byol_jax.runtime import checkpoints

SCRIPT = tiny_runs.ROOT / "launch" / "data_service.py"

spec = importlib.util.spec_from_file_location("data_service", SCRIPT)
data_service = importlib.util.module_from_spec(spec)
spec.loader.exec_module(data_service)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return tiny_runs.write_folder(tmp_path_factory.mktemp("folder"), train=44)


@pytest.fixture(scope="module")
def folder_set(folder) -> images.ImageSet:
    """Those of the training images that are not cut away as validation images."""
    return sources.load(folder, "train")


@pytest.fixture(scope="module")
def tfds_set(tmp_path_factory) -> images.ImageSet:
    """Two splits, of three files each, whose labels no one has read yet."""
    root = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        joined = sources.load(tiny_runs.write_tfds(root, 20), "train+valid+test", str(root))
    assert joined.labels is None
    return joined


def assert_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].dtype == values.dtype
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def from_service(image_set: images.ImageSet, address: str) -> background.Batches:
    stream, reading = Stream(0, image_set.size, 4, stop=2), Reading(service=address)
    return pipeline.train_batches(image_set, stream, (View(8), View(8)), reading)


@pytest.mark.parametrize("seed", [0, 1337, 2**31 - 1])
def test_words_are_those_of_numpy(seed):
    tf = tensorflow.import_tensorflow()
    counters = np.array([[0, 5, 6, 7], [0, 2**40, 0, 2], [3, 0, 1, 0]])
    expected = [keys.philox(seed, "crop", counter).random_raw(4) for counter in counters]
    for philox in (service._philox, tf.function(service._philox, autograph=False)):
        actual = philox(seed, "crop", tf.constant(counters, tf.int64)).numpy()
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "views", "changes"),
    [
        ("folder_set", (View(9), View(9)), {"start": 3}),
        ("tfds_set", (View(9), View(9, box_of=1)), {"process": (1, 2), "micro_batches": 2}),
        ("folder_set", (View(9), View(9), View(5, (0.05, 0.3), (0.5, 2.0)), View(7)), {}),
    ],
)
def test_the_graph_is_the_pipeline(request, name, views, changes):
    """Each batch bit for bit, over several epochs: 35 and 40 images, batches of 16."""
    image_set = request.getfixturevalue(name)
    stream = Stream(7, image_set.size, 16, **changes)
    graph = service.dataset(image_set, stream, views)
    stream = stream._replace(stop=stream.start + 8)
    expected = pipeline.train_batches(image_set, stream, views)
    epochs = []
    for batch, actual in zip(expected, graph.as_numpy_iterator(), strict=False):
        assert_equal(actual, batch)
        epochs.extend(actual["epochs"])
    assert len({*epochs}) > 2


def test_an_image_that_cannot_be_read_is_left_out(tmp_path):
    """File 2 of 6: batches of 3 have the other images of the stream, in its order."""
    name = tiny_runs.write_folder(tmp_path, train=6, test=3)
    (bad,) = (tmp_path / "train").rglob("2.jpg")
    bad.write_bytes(bad.read_bytes()[:100])
    image_set = sources.load(name, "train+valid")
    (number,) = (i for i in range(6) if image_set.images.describe(i) == str(bad))
    graph = service.dataset(image_set, Stream(1, 6, 3), (View(8),))
    delivered = [
        batch["ids"] for batch, _ in zip(graph.as_numpy_iterator(), range(5), strict=False)
    ]
    ids, _ = examples(1, 6, 0, 18)
    assert np.concatenate(delivered).tolist() == [i for i in ids if i != number][:15]


def test_an_image_that_is_too_large_is_left_out(folder_set):
    """More pixels than the median of the images, in megapixels."""
    sizes = [images.prepare(folder_set.images.read(i).data) for i in range(folder_set.size)]
    areas = np.array([size.height * size.width for size in sizes])
    limit = int(np.median(areas))
    small = folder_set._replace(largest=limit / 1e6)
    graph = service.dataset(small, Stream(1, small.size, 5), (View(8),))
    delivered = [b["ids"] for b, _ in zip(graph.as_numpy_iterator(), range(3), strict=False)]
    ids, _ = examples(1, small.size, 0, 3 * small.size)
    assert np.concatenate(delivered).tolist() == [i for i in ids if areas[i] <= limit][:15]


def test_a_depth_that_a_graph_cannot_scale_is_refused(folder_set):
    deep = folder_set._replace(depth=depth.Depth(bits=12))
    with pytest.raises(UserError, match=r"config\.data\.service .* values of 12 bits"):
        service.dataset(deep, Stream(1, deep.size, 5), (View(8),))


@pytest.mark.parametrize(("came", "error"), [([], UserError), ([True], GuardError)])
def test_a_service_that_stops_while_it_runs_is_no_mistake(came, error):
    wait = service._waiting("grpc://x:1", came)
    wait(service.PATIENCE - 1)
    with pytest.raises(error, match="no batch for 300 s"):
        wait(service.PATIENCE)


def test_boxes_are_those_of_numpy():
    """In pictures so large that a ratio rounded to float32 would move every other side."""
    tf = tensorflow.import_tensorflow()
    uniforms = np.random.default_rng(0).random((200, 4))
    sides = np.float64(2**24), np.float64(3**15)
    expected = boxes.box_rule(np, uniforms, *sides)
    library = service._numpy_names(tf)
    rows = [boxes.box_rule(library, row, *sides) for row in tf.unstack(tf.constant(uniforms))]
    np.testing.assert_array_equal(np.stack(rows), expected)


@contextlib.contextmanager
def servers(count: int) -> Iterator[str]:
    """A dispatcher and so many workers as processes; yields the dispatcher's address."""
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen] = []

        def start(*words: str) -> str:
            command = [sys.executable, str(SCRIPT), *words]
            variables = os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)}
            process = subprocess.Popen(
                command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
            return process.stdout.readline()

        address = f"localhost:{start('dispatcher', '0').strip().rpartition(':')[2]}"
        for _ in range(count):
            assert start("worker", address).startswith("worker at ")
        yield address
        for process in started:
            process.send_signal(signal.SIGINT)
        assert [process.wait(timeout=30) for process in started] == [-signal.SIGINT] * (count + 1)


@pytest.mark.slow
def test_a_dispatcher_and_two_workers(folder, folder_set, tmp_path):
    """What they deliver are batches of the stream, each once; a training takes them."""
    with servers(2) as address:
        stream, views = Stream(7, folder_set.size, 16, start=3, stop=23), (View(9), View(9))
        reading = Reading(service=address)
        actual = list(pipeline.train_batches(folder_set, stream, views, reading))
        assert len(actual) == 20
        # Workers are ahead of what is fetched by a few batches for each of their threads.
        by_ids = {
            tuple(batch["ids"]): (step, batch)
            for step, batch in enumerate(
                pipeline.train_batches(folder_set, stream._replace(stop=200), views), start=3
            )
        }
        steps = []
        for batch in actual:
            step, expected = by_ids[tuple(batch["ids"])]
            steps.append(step)
            assert_equal(batch, expected)
        assert len({*steps}) == 20

        done = tiny_runs.program(
            "--config=experiments/base.py",
            *tiny_runs.TINY_FLAGS,
            f"--config.dataset={folder}",
            f"--config.data.service=grpc://{address}",
            "--config.num_steps=4",
            f"--workdir={tmp_path / 'run'}",
        )
        assert done.returncode == 0, done.stderr
        assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [4]


@pytest.mark.slow
def test_without_workers_the_run_ends(folder_set, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("byol_jax"), "propagate", True)
    monkeypatch.setattr(service, "WARNING", 1)
    monkeypatch.setattr(service, "PATIENCE", 2)
    servers = tensorflow.import_tensorflow().data.experimental.service
    dispatcher = servers.DispatchServer()
    batches = from_service(folder_set, dispatcher.target)
    with pytest.raises(UserError, match=r"config\.data\.service=.* 2 s"):
        next(batches)
    assert "config.data.service=" in caplog.text


@pytest.mark.parametrize("address", ["localhost", "http://localhost:1", "localhost:99999"])
def test_a_malformed_address_is_refused(folder_set, address):
    with pytest.raises(UserError, match=r"config\.data\.service=.*grpc://HOST:PORT"):
        from_service(folder_set, address)


@pytest.mark.slow
def test_an_address_that_does_not_answer(folder, tmp_path):
    config = tiny_runs.tiny_config(folder, data__service="grpc://localhost:1")
    message = r"config\.data\.service=.*launch/data_service\.py dispatcher"
    with pytest.raises(UserError, match=message) as raised:
        train.pretrain(config, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_no_dispatcher_is_refused(folder_set, monkeypatch):
    monkeypatch.setattr(service, "ANSWER", 2)
    with socket.create_server(("localhost", 0)) as server:

        def hang_up() -> None:
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                pass  # the test is over

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(UserError, match=r"config\.data\.service="):
            from_service(folder_set, f"localhost:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tiny_runs.images(1)[0]).save(buffer, form)
    return buffer.getvalue()


def test_images_that_no_worker_could_read(tmp_path):
    given = Stream(0, 1, 1), (View(8),)
    arrays = tiny_runs.labelled_set([3])
    with pytest.raises(UserError, match=r"config\.data\.service: set "):
        service.dataset(arrays, *given)
    data = picture("png")
    records = images.Records(1, lambda i: images.Encoded(data, 0), str, lambda: arrays.labels)
    with pytest.raises(UserError, match=r"config\.data\.service.* tfrecord"):
        service.dataset(arrays._replace(images=records), *given)
    for name in ("a.png", "b.GIF", "c.webp"):
        (tmp_path / name).write_bytes(picture(pathlib.Path(name).suffix[1:].lower()))
    with pytest.raises(UserError, match=r"config\.data\.service.* JPEG and PNG .*2 .*b\.GIF"):
        service.dataset(sources.load(f"folder:{tmp_path}", "train+valid+test"), *given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "usage: "),
        ("server", "usage: "),
        ("dispatcher 1 2", "usage: "),
        ("dispatcher http", "'http'"),
        ("dispatcher 70000", "'70000'"),
        ("worker", "usage: "),
        ("worker localhost", "HOST:PORT"),
        ("worker localhost:1", "localhost:1"),
    ],
)
def test_mistakes_in_starting_servers(words, message):
    with pytest.raises(UserError, match=message):
        data_service.start(words.split())


def test_a_port_in_use_is_not_shared():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}"):
            data_service.start(["dispatcher", str(port)])
