"""Going on: settings and images are those of the checkpoint, or the user wants others."""

import importlib
import json

import ml_collections
import pytest

import tiny_runs
from byol_jax import checks, pages, resume, weights
from byol_jax.errors import UserError
from experiments import base

# Keys of pre-trainings that change a number of the training. A new key must be here, and in
# weights/upgrade.py with the value that it had all the time (tests/test_old_runs.py), or in SILENT.
DECIDING = frozenset(
    (
        *("job", "seed", "image_size", "batch_size", "accumulate", "precision", "objective.name"),
        *("target", "target_init", "tau_base", "tau_schedule", "bn_statistics"),
        *("network.depth", "network.width", "network.stem", "network.padding", "network.shortcut"),
        *("network.head_bias", "network.last_bn_scale", "network.init_scale"),
        *("network.bn_decay", "network.bn_eps"),
        *(f"network.{head}.kind" for head in ("projector", "predictor", "dense")),
        *(
            f"network.{head}.{key}"
            for head in ("projector", "predictor")
            for key in ("depth", "hidden_size", "hidden_norm", "output_norm")
        ),
        "network.projector.output_size",
        *("optimizer.name", "optimizer.base_learning_rate", "optimizer.rate_scaling"),
        *("optimizer.projector_rate", "optimizer.predictor_rate", "optimizer.schedule"),
        *("optimizer.milestones", "optimizer.rate_start", "optimizer.rate_end"),
        *("optimizer.predictor_schedule", "optimizer.warmup_epochs", "optimizer.weight_decay"),
        *("optimizer.decayed", "optimizer.trust_coefficient", "optimizer.momentum"),
        "augment.small.count",
        *(f"augment.{view}.{key}" for view in ("view1", "view2") for key in base.augmentation()),
        *(
            "data.exif",
            "data.largest_image",
            "data.area_min",
            "data.area_max",
            "data.aspect_min",
            "data.aspect_max",
        ),
        *("data.same_crop", "data.scaled_decoding", "data.service"),
    )
)
# Of an objective, a head or views that a run has.
DECIDING_IF_USED = frozenset(
    (
        *(
            f"objective.{name}.{key}"
            for name, section in base.objective().items()
            if name != "name"
            for key in section
        ),
        *(f"network.dense.{key}" for key in base.network().dense if key != "kind"),
        *(f"augment.small.{key}" for key in base.augment().small if key != "count"),
    )
)
# Compared by another measure: steps in all, the fingerprint of the images, or `resume.init_of`.
OTHERWISE = frozenset(
    ("num_epochs", "num_steps", "dataset", "data_dir", "data.labels", "data.split", "init")
)
SILENT = frozenset(
    (
        *("recipe", "choose", "resume_changed", "stop_at", "log_every", "checkpoint_every"),
        *("checkpoint_minutes", "skip_damaged", "stop_on_collapse"),
        *("keep_checkpoints", "profile.steps", "profile.first", "views.images", "views.draws"),
        *("data.threads", "data.prefetch", "data.cache"),
        # The same operations elsewhere, or once more: other roundings.
        *("data.resident", "augment.placement", "network.remat"),
        *("data.eval_crop", "data.classifier_crops"),
        *(f"evaluation.{key}" for key in base.evaluation()),
        *(f"finish.{key}" for key in base.finish()),
    )
)


OPTIONS = {"ablations": ["table=5b,row=3"], "ablate": ["table=5b"], "paper": ["table=1"]}


def pretrainings() -> dict[str, ml_collections.ConfigDict]:
    """The config of each shipped page that pre-trains."""
    found = {}
    for name in pages.summaries():
        page = importlib.import_module(f"experiments.{name}")
        config = page.get_config(*OPTIONS.get(name, ()))
        if config.get("job") == "pretrain":
            found[name] = config
    return found


PRETRAININGS = pretrainings()


@pytest.mark.parametrize("name", PRETRAININGS)
def test_every_key_of_every_page_is_classified(name: str) -> None:
    config = PRETRAININGS[name].to_dict()
    keys = {*checks.flatten(config)}
    compared = {*resume.compared(config)}
    assert keys - compared <= SILENT | OTHERWISE | DECIDING_IF_USED
    assert compared <= DECIDING | DECIDING_IF_USED
    assert compared >= DECIDING
    own = f"objective.{config['objective']['name']}."
    used = {key for key in keys if key.startswith(own)}
    if config["network"]["dense"]["kind"] != "none":
        used |= {key for key in keys if key.startswith("network.dense.")}
    assert compared - DECIDING == used - DECIDING


def test_no_key_is_in_two_classes() -> None:
    classes = (DECIDING, DECIDING_IF_USED, OTHERWISE, SILENT)
    assert sum(map(len, classes)) == len(frozenset().union(*classes))


def test_small_views_count_where_there_are_any() -> None:
    config = base.get_config().to_dict()
    assert "augment.small.size" not in resume.compared(config)
    config["augment"]["small"]["count"] = 2
    assert "augment.small.size" in resume.compared(config)


# ---------------------------------------------------------------- records


def record_of(**changes) -> dict:
    """A record of 12 steps on 24 images of a folder, with dotted keys changed."""
    keys = ("data", "devices", "total_steps", "changes")
    entries = {key: changes.pop(key) for key in keys if key in changes}
    config = tiny_runs.tiny_config("folder:images", **{"num_steps": 12, **changes})
    print_of = {"count": 24, "names_crc32": 5, "labels_crc32": 7}
    plain = json.loads(json.dumps(config.to_dict()))
    return {"config": plain, "total_steps": 12, "data": print_of, "devices": 1, **entries}


def words(old: dict, new: dict) -> list[str]:
    return [change.words for change in resume.changes(old, new)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 4}, "config.batch_size=4 (was 8)"),
        ({"accumulate": 2}, "config.accumulate=2 (was 1)"),
        ({"seed": 1}, "config.seed=1 (was 1337)"),
        ({"optimizer__milestones": (0.5,)}, "config.optimizer.milestones=[0.5] (was [])"),
        ({"data__service": "grpc://a:1"}, "config.data.service=True (was False)"),
        ({"total_steps": 14}, "14 steps in all (was 12; config.num_steps=12)"),
        ({"data": {"count": 20, "names_crc32": 4}}, "20 images (was 24) in config.dataset="),
        ({"data": {"count": 24, "names_crc32": 4}}, "24 images of other names in config.dataset="),
        ({"data": {"count": 24, "labels_crc32": 4}}, "24 images of other labels in config."),
        ({"data": {"count": 24, "pixels_crc32": 4}}, None),
        ({"dataset": "folder:elsewhere"}, None),
        ({"data__split": "train+valid+test"}, None),
        ({"devices": 2}, None),
        ({"num_epochs": 7}, None),
    ],
)
def test_what_differs(changes, expected) -> None:
    config = {key: value for key, value in changes.items() if key != "dataset"}
    new = record_of(**config)
    if "dataset" in changes:
        new["config"]["dataset"] = changes["dataset"]
    found = words(record_of(), new)
    assert len(found) == bool(expected)
    assert not expected or found[0].startswith(expected)


def test_devices_count_where_batchnorm_is_local() -> None:
    old, new = (record_of(bn_statistics="local", devices=count) for count in (8, 4))
    assert words(old, new) == ["4 devices (was 8) with config.bn_statistics=local"]


def test_more_images_are_one_change() -> None:
    """Though their epochs have more steps."""
    old = record_of(num_steps=None, num_epochs=4)
    more = {"data": {"count": 30, "names_crc32": 1}, "total_steps": 15}
    (line,) = words(old, record_of(num_steps=None, num_epochs=4, **more))
    assert line.startswith("30 images (was 24) in config.dataset=")
    both = words(old, record_of(num_steps=None, num_epochs=5, **more))
    assert both[1:] == ["15 steps in all (was 12; config.num_epochs=5)"]


def test_settings_of_an_attempt_that_saved_no_step_go(tmp_path, monkeypatch) -> None:
    old = {"config": {"tau_base": 0.99}}
    monkeypatch.setattr(resume.weights, "read_record", lambda *_: old)
    change = [{"step": 4, "changed": [], "keys": []}]
    resume.keep_old(tmp_path, 4, change)
    assert json.loads((tmp_path / "config-4.json").read_text()) == {"tau_base": 0.99}
    found = [resume.Change("tau_base", "config.tau_base=0.9 (was 0.99)")]
    assert "those of its config-4.json" in resume._refusal(found, 4, tmp_path)
    resume.keep_old(tmp_path, 6, change)
    assert (tmp_path / "config-4.json").exists()
    resume.keep_old(tmp_path, 4, [])
    assert not (tmp_path / "config-4.json").exists()
    assert "those of its config.json" in resume._refusal(found, 4, tmp_path)


def test_numbers_of_other_objectives_do_not_count() -> None:
    assert not words(record_of(), record_of(objective__moco__temperature=0.5))
    moco = {"objective__name": "moco"}
    assert words(record_of(**moco), record_of(**moco, objective__moco__temperature=0.5))


def test_keywords_of_an_objective_of_ones_own_count() -> None:
    own = {"objective__name": "mine:barlow"}
    old, new = (record_of(**own, objective__own__weight=weight) for weight in (0.1, 0.2))
    assert words(old, new) == ["config.objective.own.weight=0.2 (was 0.1)"]


def test_without_a_fingerprint_the_place_counts(tmp_path, monkeypatch) -> None:
    """However it is spelled."""
    monkeypatch.chdir(tmp_path)
    old, new = record_of(), record_of()
    del old["data"]
    new["config"]["dataset"] = f"folder:{tmp_path}/x/../images"
    assert not words(old, new)
    new["config"]["dataset"] = "folder:other"
    assert words(old, new) == ["config.dataset=folder:other (was folder:images)"]


def test_a_run_of_unrecorded_length_is_compared_by_its_keys() -> None:
    old, new = record_of(total_steps=None), record_of(total_steps=20)
    assert not words(old, new)
    new["config"]["num_steps"] = 20
    assert words(old, new) == ["config.num_steps=20 (was 12)"]


@pytest.fixture
def history(monkeypatch, tmp_path):
    """`resume.history` at step 6 of a given record."""

    def history(old: dict, new: dict, may_change: bool = False) -> list:
        monkeypatch.setattr(weights, "read_record", lambda *_: old)
        return resume.history(new, tmp_path, 6, may_change)

    return history


def test_the_first_differences_are_named_in_one_line(history, tmp_path) -> None:
    new = record_of(batch_size=4, seed=1, tau_base=0.5, image_size=9, precision="bfloat16")
    with pytest.raises(UserError) as caught:
        history(record_of(), new)
    message = str(caught.value)
    assert f"the run in {tmp_path} is at step 6 with other settings: config." in message
    assert message.count("(was ") == 4 and "and 1 more" in message and "\n" not in message
    assert "--config.resume_changed=True" in message and "--config.init" not in message


def test_other_images_may_start_from_the_weights(history, tmp_path) -> None:
    new = record_of(data={"count": 30, "names_crc32": 1})
    with pytest.raises(UserError, match=rf"30 images \(was 24\).*--config\.init={tmp_path}"):
        history(record_of(), new)


@pytest.mark.parametrize("may_change", [False, True])
def test_fewer_steps_than_done_are_refused_in_any_case(history, may_change) -> None:
    new = record_of(total_steps=5)
    new["config"]["num_steps"] = 5
    message = r"config\.num_steps=5 makes 5 steps, and the run in \S+ has done 6"
    with pytest.raises(UserError, match=message):
        history(record_of(), new, may_change)
    # By epochs.
    new["config"].update(num_steps=None, num_epochs=2)
    with pytest.raises(UserError, match=r"config\.num_epochs=2 makes 5 steps"):
        history(record_of(), new, may_change)


def test_what_was_changed_is_kept(history) -> None:
    before = [{"step": 3, "changed": ["config.tau_base=0.9 (was 0.99)"], "keys": ["tau_base"]}]
    old = record_of(changes=before)
    done = history(old, record_of(batch_size=4), may_change=True)
    assert done == [
        *before,
        {"step": 6, "changed": ["config.batch_size=4 (was 8)"], "keys": ["batch_size"]},
    ]
    assert history(old, record_of(), may_change=True) == before
    recipe = resume.with_history("published: App. A", done)
    assert recipe == "App. A; changed: tau_base, batch_size"
    assert resume.with_history("published: App. A", []) == "published: App. A"


def test_the_source_of_a_run_may_be_spelled_otherwise(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = {"config": {"init": "runs/a"}}
    monkeypatch.setattr(weights, "read_record", lambda *_: record)
    assert resume.init_of(str(tmp_path / "runs" / "a"), tmp_path, 6) == "runs/a"
    assert resume.init_of(None, tmp_path, 6) == "runs/a"
    with pytest.raises(UserError, match=r"config\.init=runs/b: the run in .* started from runs/a"):
        resume.init_of("runs/b", tmp_path, 6)
