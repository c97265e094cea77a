"""What a checkpoint is called, and where it is not the network of a table."""

import importlib

import ml_collections
import pytest

import tiny_checkpoints
from byol_jax import weights
from byol_jax.errors import UserError
from byol_jax.jobs import pretrained
from experiments import byol, segmentation, simclr, supervised
from experiments.papers import trainings
from experiments.papers.cells import Network

RECORD = {"num_classes": 3, "total_steps": tiny_checkpoints.STEP}


def trained_of(config: ml_collections.ConfigDict, **changes) -> weights.Trained:
    """A finished run of a page."""
    config.dataset = "tfds:imagenet2012"
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    record = {**RECORD, "config": config.to_dict()}
    return weights.trained_of(record, tiny_checkpoints.STEP, {}, {}, {}, {})


def checkpoint_of(trained: weights.Trained, given: str = "unknown") -> pretrained.Checkpoint:
    method = pretrained.method_of(trained) or given
    return pretrained.Checkpoint(trained, method, "imagenet", "ImageNet")


def departures(
    network: Network, trained: weights.Trained, given: str = "unknown"
) -> tuple[str, ...]:
    (training,) = trainings.configs_of([network])
    need = trainings.resolved(network)
    return pretrained.departures_of(need, checkpoint_of(trained, given), training["config"])


BYOL = "epochs=1000"


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, "byol"),
        ({"objective__byol__normalization": "layer"}, "byol"),  # Table 20: a departure
        ({"objective__name": "nt_xent"}, "other"),
        ({"objective__name": "nt_xent", "target": "online"}, "other"),
        (
            {"objective__name": "nt_xent", "target": "online", "network__predictor__kind": "none"},
            "simclr",
        ),
        # Tables 5a, 5b, 19; App. J.
        ({"target": "stop_gradient"}, "other"),
        ({"target": "constant"}, "other"),
        ({"target": "online"}, "other"),
        ({"network__predictor__kind": "none"}, "other"),
        ({"network__predictor__kind": "optimal_linear"}, "other"),
        ({"tau_base": 0.0, "tau_schedule": "constant"}, "other"),
        ({"objective__name": "info_nce"}, "other"),
        ({"objective__name": "barlow:objective"}, "other"),
    ],
)
def test_the_method_is_that_of_the_dials(changes, method) -> None:
    assert pretrained.method_of(trained_of(byol.get_config(), **changes)) == method


@pytest.mark.parametrize("name", ["simclr", "simsiam", "moco", "densecl", "supcon"])
def test_a_method_is_known_by_its_page(name) -> None:
    page = importlib.import_module(f"experiments.{name}")
    assert pretrained.method_of(trained_of(page.get_config())) == name
    if name == "moco":
        assert pretrained.method_of(trained_of(page.get_config("version=1"))) == name
    # Nor does a checkpoint depart from the page that trains it.
    network = Network(name, epochs=page.get_config().num_epochs)
    get_config = trainings.configs_of([network])[0]["config"]
    own = page.get_config(trainings.page(network).partition(":")[2])
    assert own.to_dict() == get_config


def test_another_method_goes_by_its_own_description() -> None:
    source = checkpoint_of(trained_of(byol.get_config(), objective__name="info_nce"))
    assert source.words == (
        "a ResNet-50 trained with objective.name=info_nce, target=ema, predictor mlp on ImageNet"
    )
    for method in pretrained.METHODS:
        need = trainings.resolved(Network(method))
        assert not pretrained.is_usable(need, source, any_network=False)
        assert pretrained.is_usable(need, source, any_network=True)


@pytest.mark.parametrize("any_network", [False, True])
def test_a_method_with_rows_never_stands_in_those_of_another(any_network) -> None:
    for page, own in ((byol.get_config, "byol"), (simclr.get_config, "simclr")):
        source = checkpoint_of(trained_of(page()))
        for method in ("byol", "simclr", "supervised"):
            need = trainings.resolved(Network(method))
            assert pretrained.is_usable(need, source, any_network) == (method == own)


def test_the_users_word_counts_only_where_the_checkpoint_has_none() -> None:
    known = trained_of(byol.get_config())
    assert pretrained._checked_method("byol", known) == "byol"
    with pytest.raises(UserError, match=r"config\.method=simclr.*objective\.name=byol"):
        pretrained._checked_method("simclr", known)
    other = trained_of(byol.get_config(), objective__name="info_nce")
    assert pretrained._checked_method(None, other) == "other"
    with pytest.raises(UserError, match=r"config\.method=byol.*info_nce"):
        pretrained._checked_method("byol", other)
    unknown = known._replace(method=None)
    assert pretrained._checked_method("simclr", unknown) == "simclr"
    with pytest.raises(
        UserError,
        match=r"config\.method is needed.*byol, simclr, simsiam, moco, densecl, supcon, supervised",
    ):
        pretrained._checked_method(None, unknown)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ()),
        ({"data__threads": 4, "log_every": 1, "seed": 3, "evaluation__knn_k": 5}, ()),
        ({"num_epochs": 300}, ("pre-trained for 300 epochs",)),
        ({"batch_size": 512}, ("pre-trained at batch 512",)),
        ({"num_steps": 7}, ("pre-trained for 7 steps",)),
        ({"image_size": 32}, ("pre-trained at 32 pixels",)),
        ({"network__stem": "small"}, ("stem small",)),
        ({"recipe": "not published: mine"}, ("recipe not published: mine",)),
        ({"precision": "bfloat16"}, ("precision=bfloat16 (float32)",)),
        (
            {"optimizer__base_learning_rate": 0.4, "augment__view2__solarize": 0.0},
            ("augment.view2 solarize=0 (0.2)", "optimizer base_learning_rate=0.4 (0.2)"),
        ),
    ],
)
def test_whatever_is_not_the_papers_is_a_departure(changes, words) -> None:
    assert departures(Network("byol"), trained_of(byol.get_config(BYOL), **changes)) == words


def test_a_run_that_has_not_ended_is_a_departure() -> None:
    trained = trained_of(byol.get_config(BYOL))
    (words,) = departures(Network("byol"), trained._replace(total_steps=9))
    assert words == "pre-training at step 6 of 9"
    (words,) = departures(Network("byol"), trained._replace(total_steps=None))
    assert "unknown number of steps" in words


def test_a_key_that_came_later_was_at_its_default() -> None:
    trained = trained_of(byol.get_config(BYOL))
    config = {k: v for k, v in trained.config.items() if k != "precision"}
    assert departures(Network("byol"), trained._replace(config=config)) == ()


def test_the_reproduction_of_simclr_has_byols_augmentations() -> None:
    """BYOL Tables 3, 8 and 13 against SimCLR's own recipe."""
    own = trained_of(simclr.get_config("epochs=1000"))
    assert departures(Network("simclr"), own) == ()
    *settings, named = departures(Network("simclr", variant="repro"), own)
    assert any("saturation_max=0.8 (0.2)" in words for words in settings)
    assert "BYOL Table 6" in named
    config = simclr.get_config("epochs=1000")
    config.augment = byol.get_config().augment
    assert departures(Network("simclr", variant="repro"), trained_of(config)) == ()


def test_broader_augmentations_are_looked_for() -> None:
    """SimCLR App. B.2 gives no probabilities, so that any will do."""
    need, config = Network("simclr", variant="broader"), "epochs=1000"
    *_, lacking, named = departures(need, trained_of(simclr.get_config(config)))
    assert lacking == "T without sobel, equalize, solarize, motion_blur"
    assert "simclr.py:augment=broader" in named
    config += ",augment=broader"
    assert departures(need, trained_of(simclr.get_config(config))) == ()
    changes = {f"augment__view1__{name}": 0.5 for name in simclr.BROADER}
    assert departures(need, trained_of(simclr.get_config(config), **changes)) == ()


def labelled(options: str, **changes) -> weights.Trained:
    """A network that supervised.py would save."""
    config = supervised.get_config(options)
    config.update(changes)
    saved = pretrained._on_labels(config.to_dict())
    record = {**RECORD, "config": saved | {"dataset": "tfds:imagenet2012", "data_dir": None}}
    record["config"]["image_size"] = config.image_size
    return weights.trained_of(record, tiny_checkpoints.STEP, {}, {}, {}, {})


def test_a_supervised_network_is_compared_with_app_b_8_1() -> None:
    need = Network("supervised", variant="baseline")
    assert departures(need, labelled("epochs=1000,augment=simclr")) == ()
    words = departures(need, labelled("epochs=90,augment=crop", num_steps=3, batch_size=32))
    assert words[:2] == ("pre-trained for 3 steps", "pre-trained at batch 32")
    assert any("augmentation=spatial (pretrain)" in word for word in words)
    assert any("blur=0 (0.5)" in word for word in words)
    by_default = departures(need, labelled(""))
    assert by_default[0] == "pre-trained for 200 epochs"
    assert any("augmentation=randaugment (pretrain)" in word for word in by_default)
    assert "1000 epochs of crops, colors and blur" in by_default[-1]


def test_an_operation_that_the_papers_t_does_not_have_is_a_departure() -> None:
    config = supervised.get_config("epochs=1000,augment=simclr").view
    config.cutout = 0.3
    (words,) = departures(
        Network("supervised"), labelled("epochs=1000,augment=simclr", view=config)
    )
    assert words == "augment.view1 cutout=0.3 (0)"


def test_strengths_of_an_operation_without_probability_do_not_count() -> None:
    nothing = {"augment__view1__color_jitter": 0.0, "augment__view1__hue_max": 0.9}
    words = departures(Network("byol"), trained_of(byol.get_config(BYOL), **nothing))
    assert words == ("augment.view1 color_jitter=0 (0.8)",)


def test_what_an_earlier_version_did_not_save_is_unknown() -> None:
    trained = labelled("epochs=1000,augment=simclr")
    config = {**trained.config, "augmentation": None, "batch_size": None, "num_epochs": None}
    old = trained._replace(config=config | {"start": None, "num_steps": None})
    assert pretrained.method_of(old) is None  # trained from scratch, or fine-tuned
    (words,) = departures(Network("supervised"), old, given="supervised")
    assert "unknown augmentations, crops, rate, length and batch" in words


def test_a_network_with_an_output_per_pixel_is_of_no_row() -> None:
    plain = {**segmentation.get_config().to_dict(), "start": "online", "augment": {}}
    plain |= {"image_size": 224, "network": byol.get_config(BYOL).to_dict()["network"]}
    names = ("area_min", "area_max", "aspect_min", "aspect_max", "exif")
    plain["data"] = {**dict.fromkeys(names, 1.0), "eval_crop": "paper"}
    trained = weights.trained_of({**RECORD, "config": plain}, 1, {}, {}, {}, {})
    assert pretrained.method_of(trained) == pretrained.OTHER
    checkpoint = checkpoint_of(trained)
    assert "trained for segmentation (voc2012-fcn16s) from network=online" in checkpoint.words
    assert not pretrained.is_usable(Network("supervised")._asdict(), checkpoint, False)


def test_a_fine_tuned_network_is_not_a_supervised_one() -> None:
    trained = labelled("")
    tuned = trained._replace(config={**trained.config, "start": "online", "protocol": "finetune"})
    assert pretrained.method_of(tuned) == "other"
    assert "fine-tuned on labels (finetune) from network=online" in checkpoint_of(tuned).words


def test_only_the_architecture_of_an_untrained_network_counts() -> None:
    need = trainings.resolved(Network("random"))
    source = checkpoint_of(trained_of(simclr.get_config()))._replace(data="digits")
    assert pretrained.is_usable(need, source, any_network=False)
    assert pretrained.departures_of(need, source, None) == ()
    assert "of any training" in pretrained.needed(need)
