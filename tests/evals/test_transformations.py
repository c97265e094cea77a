"""SimCLR Table 3: labels and views beside plain loops, and the job."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_checkpoints
from byol_jax import weights
from byol_jax.augment import byol, compose, simclr
from byol_jax.augment.compose import AugmentParams
from byol_jax.data import images, pipeline, sources
from byol_jax.data.views import View, examples
from byol_jax.errors import UserError
from byol_jax.evals import transformations
from byol_jax.evals.checkpoint import siamese_of
from byol_jax.evals.probes import mlp, transformed
from byol_jax.results.records import read_results
from experiments import transformations as page

SHARES = {
    "grayscale": (0.8, 0.2),
    "rotation": (0.25, 0.25, 0.25, 0.25),
    "noise": (0.5, 0.5),
    "sobel": (0.5, 0.5),
}
# Without any operation, and with some that stand before and behind each task's own.
NOTHING = AugmentParams(flip=0.0, color_jitter=0.0, grayscale=0.0, blur=0.0)
RICH = AugmentParams(crop=0.5, blur=0.5, solarize=0.5, noise=0.5)


def key_of(seed, name, *values):
    """Keys as docs/architecture.md has them, one at a time."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    for value in values:
        key = jax.random.fold_in(key, value)
    return key


# Labels.


draw_labels = jax.jit(transformed.draw_labels, static_argnums=0)


def draw(task, ids, epochs=3, seed=5, shares=None):
    ids = np.asarray(ids, np.int32)
    labels = draw_labels(task, ids, np.full_like(ids, epochs), seed, shares or SHARES[task])
    assert labels.dtype == jnp.int32
    return np.asarray(labels)


@pytest.mark.parametrize("task", SHARES)
def test_labels_beside_a_plain_loop(task):
    expected = []
    for i in range(12):
        uniform = jax.random.uniform(key_of(5, f"transformation/{task}", i, 3, 1))
        bounds = {"grayscale": [0.8], "rotation": [0.25, 0.5, 0.75]}.get(task, [0.5])
        expected.append(sum(float(uniform) >= bound for bound in bounds))
    assert draw(task, range(12)).tolist() == expected
    assert len({*expected}) > 1


def test_labels_depend_on_seed_example_and_epoch_alone():
    ids = np.arange(64)
    labels = draw("rotation", ids)
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(draw("rotation", ids[order]), labels[order])
    np.testing.assert_array_equal(draw("rotation", ids[7:9]), labels[7:9])
    for others in (
        draw("rotation", ids, seed=6),
        draw("rotation", ids, epochs=4),
        draw("rotation", ids + 64),
        draw("noise", ids, shares=SHARES["rotation"]),
    ):
        assert 4 <= np.sum(others == labels) <= 28  # a quarter of 64, by chance


@pytest.mark.parametrize("task", SHARES)
def test_classes_have_their_shares(task):
    labels = draw(task, range(4000))
    assert transformed.shares_of(task, page.get_config().probabilities) == SHARES[task]
    shares = np.bincount(labels, minlength=len(SHARES[task])) / 4000
    assert len(shares) == transformed.TASKS[task].classes
    np.testing.assert_allclose(shares, SHARES[task], atol=0.03)  # four standard deviations


# Views.


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((20, 20, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def make_view():
    return jax.jit(transformed.make_view, static_argnums=0)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("task", SHARES)
def test_the_operation_is_applied_exactly_if_the_label_says_so(make_view, image, task):
    """T of nothing else, whose own probability of the operation counts nothing."""
    key = jax.random.key(3)
    noise = jax.random.normal(jax.random.fold_in(key, zlib.crc32(b"noise_values")), image.shape)
    expected = {
        "grayscale": [image, byol.to_grayscale(image)],
        "rotation": [np.rot90(image, k) for k in range(4)],
        "noise": [image, simclr.gaussian_noise(image, noise)],
        "sobel": [image, simclr.sobel(image)],
    }[task]
    operation = transformed.TASKS[task].operation
    for params in (NOTHING, NOTHING._replace(**{operation: 0.5})):
        for label, view in enumerate(expected):
            result = make_view(task, image, key, jnp.int32(label), params)
            np.testing.assert_allclose(result, view, atol=1e-6)
    assert np.abs(np.asarray(expected[1]) - image).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["grayscale", "rotation"])
def test_all_else_is_drawn_as_t_draws_it(make_view, image, task):
    """In its own place of T, the same view as that of T where T applies the operation too."""
    whole = jax.jit(compose.make_view)
    operation = transformed.TASKS[task].operation
    classes = set()
    for seed in range(12):
        key = jax.random.key(seed)
        label = seed % 2
        probability = float(label)
        if task == "rotation":
            turns = jax.random.fold_in(key, zlib.crc32(b"rotate_turns"))
            label, probability = int(jax.random.randint(turns, (), 0, 4)), 1.0
        classes.add(label)
        expected = whole(image, key, RICH._replace(**{operation: probability}))
        result = make_view(task, image, key, jnp.int32(label), RICH)
        np.testing.assert_allclose(result, expected, atol=1e-5)
    assert len(classes) == transformed.TASKS[task].classes


# Features.


@pytest.fixture(scope="module")
def trained(checkpoint):
    return weights.load(checkpoint)


def online_of(trained):
    network = siamese_of(trained)
    return transformed.Frozen(network, trained.online_params, trained.online_state)


@pytest.mark.slow
def test_each_image_is_drawn_once_per_epoch_by_crop_and_t(dataset, trained):
    """Beside the crops and views of each example by itself, in batches of ten that span epochs."""
    image_set = images.select(sources.load(dataset, "train"), np.arange(11))
    view = AugmentParams(blur=0.5)
    cropping = weights.Cropping(view=view, area_range=(0.3, 1.0))
    source = transformed.Source(image_set, 8, cropping)
    frozen = online_of(trained)
    drawing = transformed.Drawing("noise", 5, (0.3, 0.7))

    def extract(epochs):
        # Batches of 256 are cut to the ten that two devices share.
        return transformed.extract(
            frozen, source, drawing, epochs, ("embedding", "projection"), 256
        )

    extracted = extract(range(1, 3))
    ids, epochs = examples(5, 11, 11, 33)
    assert sorted(ids[:11]) == sorted(ids[11:]) == list(range(11))
    cut = [View(8, area_range=(0.3, 1.0))]
    crops = pipeline.example_views(image_set, ids, epochs, 5, cut)["view1"]
    labels = [
        int(float(jax.random.uniform(key_of(5, "transformation/noise", i, e, 1))) >= 0.3)
        for i, e in zip(ids.tolist(), epochs.tolist(), strict=True)
    ]
    assert extracted.labels.tolist() == labels
    make_view = jax.jit(compose.make_view)
    views = np.stack(
        [
            make_view(
                crop.astype(np.float32) / 255,
                key_of(5, "augment", i, e, 1),
                view._replace(noise=float(label)),
            )
            for crop, i, e, label in zip(crops, ids.tolist(), epochs.tolist(), labels, strict=True)
        ]
    )
    expected, _ = jax.jit(frozen.network.apply, static_argnums=4)(
        trained.online_params, trained.online_state, None, byol.normalize(views), False
    )
    assert extracted.values.keys() == {"embedding", "projection"}
    for name, values in extracted.values.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-4)

    again = extract(range(2, 3))
    np.testing.assert_array_equal(again.labels, extracted.labels[11:])
    np.testing.assert_allclose(
        again.values["embedding"], extracted.values["embedding"][11:], rtol=1e-4, atol=1e-5
    )


# The job.


def small_page(source, **changes):
    config = page.get_config()
    config.update({"checkpoint": str(source), "num_epochs": 1} | changes)
    return config


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Pre-trained with Sobel in T, as far as its config says."""
    workdir = tmp_path_factory.mktemp("digits")
    changes = {"augment__view1__sobel": 0.25, "data__area_min": 0.5}
    return tiny_checkpoints.save(workdir, "digits", (2,), 10, 2, **changes)


@pytest.mark.slow
@pytest.mark.ci
def test_the_job(digits, tmp_path, capsys):
    recipe = {"batch_size": 64, "num_epochs": 30, "learning_rate": 1e-2}
    transformations.run(small_page(digits, tasks="sobel", **recipe), tmp_path)
    records = read_results(tmp_path / "results.json")
    assert [(r.network, r.checkpoint_step, r.protocol) for r in records] == [
        ("random", None, "transformation/sobel/h"),
        ("random", None, "transformation/sobel/g(h)"),
        ("online", 2, "transformation/sobel/h"),
        ("online", 2, "transformation/sobel/g(h)"),
    ]
    for record, size in zip(records, (16, 8, 16, 8), strict=True):
        assert (record.metric, record.dataset, record.split) == ("top1", "digits", "test")
        assert record.n_examples == 359
        # A handful of numbers of an untrained network tell something.
        assert record.value > 60
        settings = dict(record.settings)
        assert settings.pop("fit_top1") > 60
        assert 50 <= settings.pop("largest_share") < 60
        view = settings.pop("view")
        # T as it was drawn: the task's own operation goes by the label.
        assert view["grayscale"] == 0.2 and "sobel" not in view
        assert settings.pop("standard_error") == pytest.approx(
            (record.value * (100 - record.value) / 359) ** 0.5
        )
        assert settings.pop("standard_error_of") == "359 examples, binomial"
        assert settings == {
            "classifier": "MLP with one hidden layer, ReLU",
            "solver": "adam",
            "schedule": "cosine to 0",
            "hidden_size": size,
            **recipe,
            "seed": 1337,
            "standardize": "mean and std of all training features",
            "std_floor": 1e-6,
            "task": "sobel",
            "representation": record.protocol.split("/")[-1],
            "features": size,
            "chance": 50.0,
            "pretrained_with": {"T": 0.25, "T'": 0.0},
            "area_range": [0.5, 1.0],
            "aspect_range": [0.75, 4 / 3],
            "image_size": 8,
            "fit_split": "train",
            "fit_views": 1151,
            "epochs_of_views": 1,
            "reference": "SimCLR section 4.2, Table 3",
        }
    table, usual = capsys.readouterr().out.split("\n\n")
    values = " ".join(f"{record.value:.1f}" for record in records)
    assert [" ".join(line.split()) for line in table.splitlines()] == [
        "predicted in T chance random h random g(h) online h online g(h)",
        f"original or Sobel filtered 0.25 50.0 {values}",
    ]
    assert "transformation/sobel/g(h) top1 (%)" in usual

    # The same from the parts: g(h) of the online network.
    trained = weights.load(digits)
    cropping = trained.cropping
    assert cropping.area_range == (0.5, 1.0)
    fit, score = (
        transformed.extract(
            online_of(trained),
            transformed.Source(sources.load("digits", split), 8, cropping),
            transformed.Drawing("sobel", 1337, (0.5, 0.5)),
            epochs,
            ("embedding", "projection"),
            256,
        )
        for split, epochs in (("train", range(1, 2)), ("test", range(1)))
    )
    again = mlp.predict(
        (fit.values["projection"], fit.labels),
        (score.values["projection"], score.labels),
        2,
        mlp.Recipe(hidden_size=8, seed=1337, **recipe),
    )
    assert (again.top1, again.fit_top1) == (records[-1].value, records[-1].settings["fit_top1"])


@pytest.mark.slow
def test_a_run_is_followed_and_nothing_is_evaluated_twice(dataset, tmp_path, monkeypatch, capsys):
    """Two networks, tasks and checkpoints; features and accuracies are made up."""
    workdir = tiny_checkpoints.save(tmp_path / "run", dataset, (2, 4), total_steps=4)
    passes, recipes = [], []

    def extract(frozen, source, drawing, epochs, outputs, batch_size):
        passes.append((drawing.task, source.image_set.size, epochs))
        classes = len(drawing.shares)
        labels = np.arange(classes).repeat(source.image_set.size // classes)
        return transformed.Views({name: np.zeros((len(labels), 7)) for name in outputs}, labels)

    def predict(fit, score, classes, recipe):
        recipes.append((classes, recipe.hidden_size))
        return mlp.Prediction(50 + len(recipes), 100.0)

    monkeypatch.setattr(transformed, "extract", extract)
    monkeypatch.setattr(mlp, "predict", predict)
    changes = {"network": "online+target", "tasks": "rotation+grayscale", "epochs_of_views": 2}
    for hidden_size in (None, None, 5):
        config = small_page(workdir, follow=True, hidden_size=hidden_size, **changes)
        if hidden_size is None:
            transformations.run(config, tmp_path / "out")
        else:
            with pytest.raises(UserError, match=r"hidden_size=7.*hidden_size=5"):
                transformations.run(config, tmp_path / "out")
        assert passes == 4 * [
            ("rotation", 36, range(1, 3)),
            ("rotation", 12, range(1)),
            ("grayscale", 36, range(1, 3)),
            ("grayscale", 12, range(1)),
        ]
        assert recipes == 4 * [(4, 7), (4, 7), (2, 7), (2, 7)]
    records = read_results(tmp_path / "out" / "results.json")
    assert [r.checkpoint_step for r in records] == [2] * 8 + [4] * 8
    assert [r.network for r in records] == 2 * (["online"] * 4 + ["target"] * 4)
    assert [r.protocol for r in records] == 4 * [
        f"transformation/{task}/{representation}"
        for task in ("rotation", "grayscale")
        for representation in ("h", "g(h)")
    ]
    assert [r.settings["chance"] for r in records] == 4 * [25, 25, 80, 80]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["job"] == "transformations"
    # In the paper's form, of the first checkpoint.
    lines = capsys.readouterr().out.splitlines()[:3]
    assert [" ".join(line.split()) for line in lines] == [
        "predicted in T chance online h online g(h) target h target g(h)",
        "rotation 0 25.0 51.0 52.0 55.0 56.0",
        "colour or grayscale 0.2 80.0 53.0 54.0 57.0 58.0",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": ""}, "config.checkpoint"),
        ({"tasks": "blur"}, "config.tasks='blur'.*sobel"),
        ({"tasks": "noise+noise"}, r"config.tasks='noise\+noise'"),
        ({"network": "random+pixels"}, r"config.network='random\+pixels'.*online"),
        ({"representations": "h"}, "config.representations='h'.*projection"),
        ({"probabilities": {"noise": 1.0}}, "config.probabilities.noise=1.0"),
        ({"fit_split": "train+test"}, "share test"),
        ({"hidden_size": 0}, "config.hidden_size=0"),
        ({"epochs_of_views": 0}, "config.epochs_of_views=0"),
        ({"learning_rate": float("inf")}, "config.learning_rate=inf"),
        ({"follow_hours": -1.0}, "config.follow_hours"),
        ({"learning_rate": 0.0}, "config.learning_rate=0.0"),
        ({"seed": -1}, "config.seed=-1"),
        ({"follow": True, "network": "random"}, "config.follow .*config.network=random"),
    ],
)
def test_mistakes_in_the_config(tmp_path, refused, changes, words):
    refused(transformations.run, small_page(tmp_path, **changes), words)


def test_what_a_checkpoint_does_not_have(dataset, tmp_path, monkeypatch, refused):
    """Refused before a view is drawn; the representation of a supervised network is not."""
    monkeypatch.setattr(transformed, "extract", lambda *_, **__: pytest.fail("computed"))
    supervised = tiny_checkpoints.save(tmp_path / "supervised", dataset, job="finetune")
    for source, changes, words in (
        (supervised, {}, "--config.representations=embedding"),
        (tmp_path, {}, "checkpoint="),
        (supervised, {"score_split": "exam", "representations": "embedding"}, "'exam'"),
    ):
        refused(transformations.run, small_page(source, **changes), words)
    config = small_page(supervised, representations="embedding", network="online")
    with pytest.raises(pytest.fail.Exception, match="computed"):
        transformations.run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
