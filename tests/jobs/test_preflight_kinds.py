"""The steps of jobs that train on labels and on targets per pixel: what a pre-flight compiles."""

import jax
import numpy as np
import pytest
import tiny_dense_runs as tiny_dense

import tiny_checkpoints
from byol_jax.data.dense import sets
from byol_jax.errors import UserError
from byol_jax.evals import depth, finetune, linear, segmentation
from byol_jax.evals.dense import training as dense_training
from byol_jax.evals.sgd import training
from byol_jax.jobs.preflight import dense, kinds, report
from byol_jax.jobs.preflight.chips import GIB, Chip, Pod
from experiments import classification
from experiments import segmentation as segmentation_page
from experiments import semi as semi_page
from experiments import supervised as supervised_page

POD = Pod("toy:1", Chip(1, 16 * GIB, 1.0, 1.0, 1.0, ("1",)), 2)
JOBS = {"linear": linear, "finetune": finetune, "segmentation": segmentation, "depth": depth}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A data set and a checkpoint of each kind."""
    root = tmp_path_factory.mktemp("files")
    dataset = tiny_checkpoints.write_easy_npz(root / "images.npz")
    return {
        "labels": dataset,
        "checkpoint": str(tiny_checkpoints.save(root / "run", dataset, network__width=0.5)),
        "masks": tiny_dense.write_masks(root / "masks"),
        "depth": tiny_dense.write_depths(root / "depth"),
    }


def config_of(name, files, **changes):
    if name == "linear":
        page = classification.get_config()
        page.job = "linear"
        return tiny_checkpoints.small(page, **{"checkpoint": files["checkpoint"], **changes})
    if name == "finetune":
        values = {"checkpoint": files["checkpoint"], "valid_split": "valid", **changes}
        return tiny_checkpoints.small(classification.get_finetune_config(), **values)
    dataset = files["masks" if name == "segmentation" else "depth"]
    return getattr(tiny_dense, name)(dataset, **changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("linear", {"learning_rates": (0.1, 0.2)}),
        ("finetune", {"learning_rates": (0.1, 0.2)}),
        ("segmentation", {}),
        ("segmentation", {"accumulate": 2}),
        ("depth", {}),
    ],
)
def test_the_shapes_are_those_that_a_run_passes(name, changes, files, tmp_path, monkeypatch):
    config = config_of(name, files, **changes)
    passed = []

    class Seen(Exception):
        pass

    def mapped_step(*program):
        def step(*arguments):
            passed.append((program, arguments))
            raise Seen

        return step

    module = dense_training if name in ("segmentation", "depth") else training
    monkeypatch.setattr(module, "mapped_step", mapped_step)
    with pytest.raises(Seen):
        JOBS[name].run(config, tmp_path / "run")
    ((program, arguments),) = passed

    asked = []

    class Mapped:
        def lower(self, *shapes):
            asked.append(shapes)

    def mapped(*program_and_devices):
        asked.append(program_and_devices[:-1])
        return Mapped()

    monkeypatch.setattr(module, "mapped_step", mapped)
    step = kinds.kind_of(config.job).step_of(config, 2)(config.batch_size)
    step.lower(tuple(jax.devices()[:2]))
    same_program, shapes = asked
    assert same_program == program
    assert jax.tree.structure(shapes) == jax.tree.structure(arguments)
    for expected, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(arguments), strict=True):
        assert (expected.shape, expected.dtype) == (leaf.shape, leaf.dtype)
    batch_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[1]))
    assert batch_bytes == config.batch_size * step.image_bytes


@pytest.mark.parametrize(
    ("name", "changes", "words", "num_steps"),
    [
        ("linear", {"num_epochs": 3.0}, "36 images, 3 classes (counted)", 3 * 36 // 8),
        ("finetune", {"fraction": 0.5, "num_epochs": 4.0}, "18 images, 3 classes", 9),
        ("finetune", {"sweep_epochs": (1.0, 2.0), "learning_rates": (0.1,)}, "36 images", 9),
        ("segmentation", {"num_steps": None, "num_epochs": 4.0}, "10 images, 3 classes", 10),
        ("depth", {}, "14 images (counted)", 4),
    ],
)
def test_images_and_steps(name, changes, words, num_steps, files):
    config = config_of(name, files, **changes)
    step = kinds.kind_of(config.job).step_of(config, 2)(config.batch_size)
    assert words in step.data
    assert step.num_steps == num_steps


def test_how_many_trainings_there_are(files):
    config = config_of("finetune", files, learning_rates=(0.1, 0.2), sweep_epochs=(1.0, 2.0))
    assert "one of 4 trainings" in kinds.kind_of("finetune").step_of(config, 2)(8).recipe
    config = segmentation_page.get_config()
    config.network = "random"
    step = kinds.kind_of("segmentation").step_of(config, 8)(16)
    assert "one of 10 trainings" in step.recipe  # five rates, five seeds
    assert "21 classes (assumed to have the 21 classes of VOC2012" in step.data
    assert step.num_steps == 30_000
    assert step.image_bytes == 4 * 513**2 + 8


def test_table_10_knows_imagenet():
    config = supervised_page.get_config()
    config.dataset = "tfds:imagenet2012"
    step = kinds.kind_of("finetune").step_of(config, 8)(config.batch_size)
    assert "1,281,167 images, 1000 classes (BYOL Table 10)" in step.data
    assert step.num_steps == int(200 * 1_281_167 / 4096)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("linear", {"checkpoint": None}, "config.checkpoint is needed"),
        ("linear", {"batch_size": 6}, "batch_size=6 does not divide over 8 devices"),
        ("linear", {"batch_size": 7}, "batch_size=7 does not divide over 8 devices"),
        ("finetune", {"learning_rates": (-1.0,)}, "config.learning_rates"),
        ("segmentation", {"crop": 18, "batch_size": 8}, "config.crop=18"),
        ("segmentation", {"batch_size": 4}, "batch_size=4 does not divide over 8 devices"),
        ("depth", {"eval_crop": "x", "batch_size": 8}, "config.eval_crop='x'"),
    ],
)
def test_what_is_refused(name, changes, words, files, monkeypatch):
    monkeypatch.setattr(report, "topology_of", lambda pod: (jax.devices()[0],) * pod.devices)
    monkeypatch.setattr(report, "compile_step", lambda *_: pytest.fail("compiled"))
    with pytest.raises(UserError, match=words):
        report.run(config_of(name, files, **changes), "v3:2x2")


def test_the_devices_of_this_machine_do_not_count(files):
    """An odd batch on a pod of one device, and two devices here."""
    for name in ("linear", "finetune", "segmentation"):
        kinds.kind_of(name).check(config_of(name, files, batch_size=7), 1)


def test_a_network_that_the_checkpoint_lacks_is_refused(files):
    config = config_of("linear", files, network="nothing")
    with pytest.raises(UserError, match="network='nothing' must be one of"):
        kinds.kind_of("linear").step_of(config, 1)


def test_a_set_that_is_not_here(files, tmp_path):
    """Half an epoch of unknown images is no mistake; Table 10 knows the classes of a subset."""
    absent = {"dataset": f"npz:{tmp_path / 'absent.npz'}", "num_epochs": 0.5}
    for name in ("linear", "finetune"):
        step = kinds.kind_of(name).step_of(config_of(name, files, **absent), 2)(8)
        assert step.num_steps is None
        assert "1000 classes (assumed to have 1000 classes" in step.data
    config = semi_page.get_config("subset=published")
    config.checkpoint, config.dataset = files["checkpoint"], "tfds:imagenet2012"
    config.data_dir = str(tmp_path)
    step = kinds.kind_of("finetune").step_of(config, 8)(1024)
    assert "1000 classes (classes of BYOL Table 10" in step.data


def test_a_classifier_that_does_not_fit_is_not_split(files, monkeypatch):
    def refuse(step, pod, devices):
        raise report.TooLarge(20 * GIB)

    class Device:
        process_index = 0

    monkeypatch.setattr(report, "topology_of", lambda pod: (Device(),) * pod.devices)
    monkeypatch.setattr(report, "compile_step", refuse)
    config = config_of("linear", files, batch_size=16)
    with pytest.raises(UserError, match=r"a larger pod, or a smaller config\.batch_size or"):
        report.run(config, "v3:2x2")


@pytest.mark.slow
@pytest.mark.ci
def test_the_numbers_of_a_compiled_step(files):
    """The CPU's compiler analyses the same program, though for other hardware."""
    config = config_of("segmentation", files)
    step = kinds.kind_of("segmentation").step_of(config, 2)(config.batch_size)
    analysis = report.compile_step(step, POD, tuple(jax.devices()[:2]))
    state, *_ = dense.arguments(_recipe_of(config), 2)
    weights = sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(state.params))
    # Gradients, and the few statistics of BatchNorm and pixels.
    assert 4 * weights < analysis.collectives.payload < 4 * weights + 20_000
    assert 8 * weights < analysis.memory  # with the momentum
    assert analysis.flops > 2 * weights * 2


def _recipe_of(config):
    task = segmentation.TASK
    dense_set, _ = dense.data_of(config, sets.MASKS)
    spec = dense.recipes.spec_of(config, None, task.dilation)
    program = task.program(config, spec, dense_set)
    return dense.recipes.recipe_of(config, program, task.transform(config, program), 10)
