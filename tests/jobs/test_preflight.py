"""The pre-flight: its report on a pod, from given numbers of the compiler."""

import importlib.util
import math
import re

import jax
import pytest
from PIL import Image

import tiny_runs
from byol_jax import prepare, train
from byol_jax.data import table10
from byol_jax.errors import UserError
from byol_jax.jobs.preflight import chips, hlo, pretraining, report
from byol_jax.jobs.preflight.chips import GIB, Chip, Pod
from byol_jax.jobs.preflight.hlo import Analysis, Collectives
from byol_jax.jobs.preflight.pretraining import Data
from byol_jax.jobs.preflight.report import Point
from byol_jax.method import hyperparameters
from byol_jax.program import init_state

# Round numbers for results by hand: two devices per chip, 100 FLOP/s, 10 B/s, 5 B/s.
POD = Pod("toy:2x2", Chip(2, 16 * GIB, 100.0, 10.0, 5.0, ("2x2",)), 4)
ANALYSIS = Analysis(
    memory=2 * GIB, flops=200.0, traffic=30.0, seconds=5.5, collectives=Collectives(3, 20, 30.0)
)


@pytest.fixture
def dataset(tmp_path):
    return tiny_runs.write_npz(tmp_path / "images.npz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preflight=v9:2x2",), ("--preflight=v9:2x2", "v3:32x32", "v4:16x16x16", "v5e:16x16")),
        (
            ("--preflight=v3:16x16", "--config.batch_size=4000"),
            ("batch_size=4000", "512 devices", "batch_size=4096"),
        ),
        (("--workdir=x", "--largest_batch"), ("--largest_batch", "--preflight")),
    ],
)
def test_mistakes_exit_with_2_and_one_line(arguments, words):
    line = tiny_runs.refusal("--config=experiments/byol.py", *arguments)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("topology", "changes", "words"),
    [
        ("v3:3x3", {}, "--preflight=v3:3x3.*v3:2x2, v3:4x4"),
        ("v3", {}, "--preflight=v3:.*v3:2x2"),
        ("v4:2x2", {}, "--preflight=v4:2x2:.*v4:2x2x1"),
        ("v3:2x2", {"tau_base": 2.0}, "config.tau_base=2"),
        ("v3:2x2", {"data__labels": "x.csv"}, r"config.data.labels=x\.csv is for folder:DIR"),
        ("v3:2x2", {"batch_size": 8, "accumulate": 2}, "batch_size=8 .*8 devices.*batch_size=16"),
        ("v3:2x2", {"job": "evaluate"}, "config.job=evaluate"),
    ],
)
def test_configs_refused_before_anything_is_compiled(topology, changes, words):
    with pytest.raises(UserError, match=words):
        report.run(tiny_runs.tiny_config("digits", **changes), topology)


def test_labels_in_a_table_are_counted(tmp_path, monkeypatch):
    """Without the table the folders would be two classes."""
    (tmp_path / "labels.csv").write_text("".join(f"c{i % 2}/{i}.png,{i % 3}\n" for i in range(30)))
    for i in range(30):
        file = tmp_path / f"c{i % 2}" / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(tiny_runs.images(1, seed=i)[0]).save(file)
    config = tiny_runs.tiny_config(
        f"folder:{tmp_path}", data__labels=str(tmp_path / "labels.csv"), batch_size=16
    )
    monkeypatch.setattr(report, "topology_of", lambda pod: (jax.devices()[0],) * pod.devices)
    counted = []

    def describe(step, pod, hosts):
        counted.append(step.data)
        raise UserError("seen")

    monkeypatch.setattr(report, "describe", describe)
    with pytest.raises(UserError, match="seen"):
        report.run(config, "v3:2x2")
    assert "3 classes" in counted[0]


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"byol_jax\[tpu\]"):
        report.run(tiny_runs.tiny_config("digits"), "v3:2x2")


def test_a_pod_that_the_compiler_refuses(monkeypatch):
    def refuse(**arguments):
        assert arguments == {
            "platform": "tpu",
            "topology_name": "v4:4x4x4",
            "chip_config_name": "megacore",
        }
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no such thing\nat all")

    monkeypatch.setattr(chips, "_ENVIRONMENT", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(chips.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=r"--preflight=v4:4x4x4.*INVALID_ARGUMENT: no such thing"):
        chips.topology_of(chips.pod_of("v4:4x4x4"))


@pytest.mark.parametrize(
    ("dataset", "split", "expected"),
    [
        ("tfds:imagenet2012", "train+valid", (1_281_167, 1000)),  # pseudo-code J.1
        ("tfds:imagenet2012:5.1.0", "train", (1_271_158, 1000)),
        ("tfds:places365_small", "train+valid", (1_803_460, 365)),
        ("tfds:caltech101", "train+valid", (3_060, 102)),
        ("tfds:voc/2007", "train+valid", (5_011, 0)),  # several classes per image: unlabelled
        ("digits", "train+valid", (1_438, 10)),
    ],
)
def test_the_data_set_by_name(dataset, split, expected):
    config = tiny_runs.tiny_config(dataset, data__split=split)
    data = pretraining.data_of(config)
    assert (data.num_examples, data.num_classes) == expected


def test_a_data_set_that_is_not_there_is_assumed_unlabelled(tmp_path):
    data = pretraining.data_of(tiny_runs.tiny_config(f"npz:{tmp_path / 'absent.npz'}"))
    assert data[:2] == (None, 0)
    assert "absent.npz" in data.words


def test_table_sizes():
    row = table10.by_name("voc2012")
    assert table10.table_size(row, "valid") == 2_119
    assert table10.table_size(row, "train+valid") is None
    assert table10.table_size(row, "extra") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2},
        {"augment__placement": "host"},
        {"target": "online", "objective__name": "nt_xent", "optimizer__name": "sgd"},
    ],
    ids=["byol", "accumulated", "host", "simclr"],
)
def test_the_shapes_are_those_that_a_run_passes(dataset, tmp_path, monkeypatch, changes):
    config = tiny_runs.tiny_config(dataset, num_steps=1, **changes)
    passed = []

    class Seen(Exception):
        pass

    def mapped_step(program, sizes=None):
        def step(*arguments):
            passed.append((program, arguments))
            raise Seen

        return step

    monkeypatch.setattr(train, "mapped_step", mapped_step)
    with pytest.raises(Seen):
        train.pretrain(config, tmp_path / "run")
    ((program, arguments),) = passed
    assert program == prepare.program_of(config, num_classes=2)
    hparams = hyperparameters(config, 24, 1)
    shapes = pretraining.arguments(config, program, hparams, 24, jax.device_count())
    assert jax.tree.structure(shapes) == jax.tree.structure(arguments)
    for expected, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(arguments), strict=True):
        assert (expected.shape, expected.dtype) == (leaf.shape, leaf.dtype)
        assert not leaf.weak_type
    batch_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[1]))
    assert batch_bytes == config.batch_size * pretraining.image_bytes(config)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # 1 + 2 b of 16: b = 7.5.
        (Point(2, 5.0), Point(4, 9.0), 7),
        (Point(8, 17.0), Point(4, 9.0), 7),
        # 20 + b: not even one.
        (Point(2, 22.0), Point(1, 21.0), 0),
        # Memory does not grow, or is unknown: the larger batch that fits.
        (Point(2, 5.0), Point(4, 5.0), 4),
        (Point(8, math.nan), Point(4, 9.0), 4),
        (Point(8, math.nan), Point(4, math.nan), 0),
    ],
)
def test_the_largest_batch_is_on_the_line_of_two(first, second, expected):
    assert report.largest(first, second, 16.0) == expected


def test_splitting_a_batch():
    config = tiny_runs.tiny_config("digits", batch_size=96)  # 12 on each of 8 devices
    step = pretraining.step(config, Data(None, 0, ""))
    assert [report.split_for(step, POD, n) for n in (12, 11, 5, 1, 0)] == [1, 2, 3, 12, None]
    assert report.split_for(step._replace(can_split=False), POD, 5) is None


def numbers(line):
    """The words of a line that are numbers."""
    words = [word.strip("(),;:").replace(",", "") for word in line.split()]
    return [float(word) for word in words if re.fullmatch(r"\d+(\.\d+)?", word)]


def test_the_report():
    config = tiny_runs.tiny_config("tfds:imagenet2012", batch_size=96, num_steps=7200)
    config.image_size = 10
    data = Data(1000, 10, "counted")
    step = pretraining.step(config, data)
    assert step.num_steps == 7200
    title, *rows = report.describe(step, POD, hosts=2)
    assert "toy:2x2" in title and numbers(title)[-2:] == [8, 2]  # devices and hosts
    assert [row.split()[0] for row in rows] == ["data", "batch", "schedule"]
    assert "tfds:imagenet2012" in rows[0] and numbers(rows[0]) == [1000, 10]
    assert [numbers(row) for row in rows[1:]] == [[96, 8, 12], [7200]]
    # 6 s per step: 96 / 6 images/s, 7200 x 6 s = 12 h. An image has 2 x 10 x 10 x 3 + 12 bytes.
    step = step._replace(batch_size=96_000_000)
    work, exchanged, compiler, peaks, rate, needed = report.cost(ANALYSIS, step, POD, 2)
    assert numbers(work) == [200, 30] and "FLOP" in work
    assert numbers(exchanged) == [20, 3] and exchanged.startswith("collectives")
    assert numbers(compiler) == [5500] and compiler.startswith("lower bounds")
    assert numbers(peaks) == [6000, 4000, 6000, 6000]
    assert numbers(rate) == [16_000_000, 7200, 12]
    # Hosts, images/s of each, views, MB/s of each.
    assert numbers(needed) == [2, 8_000_000, 2, 4896]


def test_the_report_of_micro_batches_and_of_a_schedule_without_end():
    config = tiny_runs.tiny_config("", batch_size=96, num_steps=None, accumulate=3)
    step = pretraining.step(config, Data(None, 0, "assumed"))
    assert step.num_steps is None
    lines = report.describe(step, POD, hosts=2)
    assert numbers(lines[2]) == [96, 8, 4, 3]
    assert "config.num_steps" in lines[3]
    work, _, compiler, _, rate, _ = report.cost(ANALYSIS, step, POD, 2)
    assert numbers(work)[:3] == [600, 90, 3]
    assert compiler.startswith("estimates ")
    assert numbers(rate) == [5]  # 96 in 18 s


def test_the_line_about_memory():
    line = report.memory_line(2 * GIB, GIB, POD)
    assert line.startswith("memory") and numbers(line) == [3, 16, 2, 1]
    assert numbers(report.memory_line(math.nan, 0, POD)) == [16]
    assert numbers(report.memory_line(17 * GIB, GIB / 2, POD)) == [17.5, 16, 1.5, 17, 0.5]
    # Two batches of 12 images of 2 x 8 x 8 x 3 + 12 bytes wait on each device.
    config = tiny_runs.tiny_config("digits", batch_size=96)
    step = pretraining.step(config, Data(None, 0, ""))
    assert report.waiting_bytes(step, POD) == 2 * 12 * 396


@pytest.mark.slow
@pytest.mark.ci
def test_the_numbers_of_a_compiled_step(dataset):
    """The CPU's compiler analyses the same program, though for other hardware."""
    config = tiny_runs.tiny_config(dataset)
    pod, devices = POD._replace(chips=1), tuple(jax.devices()[:2])
    step = pretraining.step(config, pretraining.data_of(config))
    analysis = report.compile_step(step, pod, devices)
    program = prepare.program_of(config, num_classes=2)
    state = init_state(0, program, prepare.sizes_of(config))
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.online_params))
    # Gradients, and the few statistics of BatchNorm.
    assert 4 * weights < analysis.collectives.payload < 4 * weights + 20_000
    # Online, target and momentum take twelve bytes per weight.
    assert 12 * weights < analysis.memory
    # At least one multiplication and one addition per weight, for two views of 4 images.
    assert analysis.flops > 2 * weights * 2 * 4


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("RESOURCE_EXHAUSTED: memory required for HLO temporaries (20G)", hlo.TooLarge),
        ("INTERNAL: a bug", jax.errors.JaxRuntimeError),
    ],
)
def test_a_step_that_does_not_compile(dataset, monkeypatch, message, expected):
    class Lowered:
        def lower(self, *shapes):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(train, "mapped_step", lambda program, devices: Lowered())
    config = tiny_runs.tiny_config(dataset)
    devices = tuple(jax.devices()[:2])
    step = pretraining.step(config, pretraining.data_of(config))
    with pytest.raises(expected):
        report.compile_step(step, POD, devices)


@pytest.fixture
def made_up(monkeypatch):
    """Replaces the compiler: a step needs 3 GiB plus 1 GiB per image.

    Returns:
      A list, filled with the images per device of each compilation.
    """
    asked = []

    def compile_step(step, pod, devices):
        images = step.batch_size // (step.accumulate * len(devices))
        asked.append(images)
        memory = (3 + images) * GIB
        if memory > pod.chip.memory:
            raise hlo.TooLarge(memory)
        return ANALYSIS._replace(memory=memory)

    class Device:
        process_index = 0

    monkeypatch.setattr(report, "topology_of", lambda pod: (Device(),) * pod.devices)
    monkeypatch.setattr(report, "compile_step", compile_step)
    return asked


def test_a_config_that_fits(made_up, dataset, capsys):
    config = tiny_runs.tiny_config(dataset, batch_size=32)
    report.run(config, "v3:2x2")
    assert "4 images" in capsys.readouterr().out
    assert made_up == [4]
    report.run(config, "v3:2x2", find_largest=True)
    assert made_up == [4, 4, 8]
    # 15.48 GiB hold 3 and 12 images.
    assert re.search("largest batch +12 ", capsys.readouterr().out)
    # Twice 9 GiB would not fit: half the images are compiled instead.
    config.batch_size = 48
    report.run(config, "v3:2x2", find_largest=True)
    assert made_up == [4, 4, 8, 6, 3]
    assert re.search("largest batch +12 ", capsys.readouterr().out)


def test_a_config_that_does_not_fit(made_up, dataset, capsys):
    config = tiny_runs.tiny_config(dataset, batch_size=8 * 32)
    with pytest.raises(UserError, match=r"config\.accumulate=4 "):
        report.run(config, "v3:2x2")
    assert made_up == [32, 16]
    out = capsys.readouterr().out
    assert "19.52 GiB" in out
    assert re.search("largest batch +12 ", out)
    assert "lower bounds" not in out


def test_a_config_that_does_not_fit_with_one_image(made_up, dataset, monkeypatch):
    chip = chips.CHIPS["v3"]._replace(memory=3.5 * GIB)
    monkeypatch.setattr(chips, "CHIPS", {"v3": chip})
    with pytest.raises(UserError, match="v3:2x2"):
        report.run(tiny_runs.tiny_config(dataset, batch_size=8), "v3:2x2")


def test_resident_images_are_refused(dataset):
    config = tiny_runs.tiny_config(dataset, data__resident=True)
    with pytest.raises(UserError, match=r"config\.data\.resident"):
        report.run(config, "v3:2x2")


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)


def operand_types(hlo, operation):
    """Types of the first two operands of each such operation, from their definitions."""
    operand_pairs = []
    for computation in hlo.split("\n\n"):
        types = dict(re.findall(r"(%[\w.\-]+) = (\w+)\[", computation))
        types |= dict(re.findall(r"(%?[\w.\-]+): (\w+)\[", computation))
        for operands in re.findall(rf" {operation}\((.*?)\)", computation):
            names = re.findall(r"%[\w.\-]+", operands)[:2]
            operand_pairs.append(tuple(types.get(name) or types[name[1:]] for name in names))
    return operand_pairs


@pytest.mark.slow
@needs_libtpu
def test_half_precision_is_what_the_chip_convolves_in(dataset):
    config = tiny_runs.tiny_config(dataset, precision="bfloat16", batch_size=8)
    devices = chips.topology_of(chips.pod_of("v3:2x2"))
    program = prepare.program_of(config, 2)
    hparams = hyperparameters(config, 24, 1)
    shapes = pretraining.arguments(config, program, hparams, 24, len(devices))
    step = train.mapped_step(program, devices=devices)
    types = operand_types(step.lower(*shapes).compile().as_text(), "convolution")
    # On the chip matrix products are convolutions, too. The chip itself rounds float32 operands, so
    # the compiler leaves out the conversion of some weights.
    assert types.count(("bf16", "bf16")) >= 2 * 2 * 13
    assert all("bf16" in pair for pair in types), types


@pytest.mark.slow
@needs_libtpu
def test_a_tiny_run_compiles_for_v3(dataset):
    done = tiny_runs.program(
        "--config=experiments/digits.py",
        "--preflight=v3:2x2",
        *tiny_runs.TINY_FLAGS,
        f"--config.dataset={dataset}",
    )
    assert done.returncode == 0, done.stderr
    assert "8 devices (each a core), 1 hosts" in done.stdout
    assert ": fits" in done.stdout
    assert "lower bounds" in done.stdout
