"""Training whole networks on labels, a grid of settings at a time.

Semi-supervised fine-tuning (BYOL App. D.1, Tables 2 and 8), transfer via fine-tuning (App. E.3,
Table 3), both from random initialisation (SimCLR App. B.8), and the supervised baseline (App. D.2,
Table 9) are one procedure with other numbers: each cell of a grid of rates, epochs and weight
decays is trained and scored on the validation split, and the best one is scored once on the test
split, after training again on train and validation images together where the protocol says so.

Each finished cell is a line of `cells.jsonl`, and a cell that was stopped goes on from its own
checkpoint, so the same command goes on with the grid.
"""

import contextlib
import functools
import json
import pathlib
import re
import zlib
from typing import Any

import jax
import ml_collections

from byol_jax import weights
from byol_jax.checks import SEED, Rule, above, at_least, check_keys, each
from byol_jax.data import images
from byol_jax.data.depth import to_record
from byol_jax.data.splits import class_balanced_subset
from byol_jax.errors import require
from byol_jax.evals import checkpoint, follow
from byol_jax.evals.cells import Cell
from byol_jax.evals.sgd import classifiers, labels, predictions, recipes, saved, training
from byol_jax.evals.sgd.identity import identity
from byol_jax.evals.sgd.search import (
    TRANSFER,
    Job,
    cells_of,
    check_folders,
    refit_name,
    search,
)
from byol_jax.evals.splits import check_splits
from byol_jax.networks import siamese
from byol_jax.networks.siamese import init_network
from byol_jax.results.records import Record
from byol_jax.runtime import checkpoints, lock, metrics, processes


def _is_bn_decay(text: str) -> bool:
    try:
        return text in ("", TRANSFER) or 0 <= float(text) < 1
    except ValueError:
        return False


RULES = {
    "protocol": Rule(bool, "a name for the records"),
    "fraction": Rule(lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "subset_seed": SEED,
    "sweep_epochs": each(above(0), may_be_empty=True),
    "sweep_weight_decays": each(at_least(0), may_be_empty=True),
    "bn_decay": Rule(
        _is_bn_decay, f"a number in [0, 1), {TRANSFER}, or empty for the network's own"
    ),
}


def check(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses a config that no grid could use.

    Args:
      config: config of the job.
      devices: number of devices; by default those of the run.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    check_keys(config, follow.RULES)
    recipes.check(config, devices)
    check_keys(config, RULES)
    checkpoint.require_start(config)
    cells = len(cells_of(config))
    require(
        config.valid_split or cells == 1,
        f"config.valid_split is empty, and the grid has {cells} cells: without a validation split "
        "give one rate, one number of epochs and one weight decay",
    )
    require(
        not config.refit or config.valid_split,
        "config.refit trains again on config.fit_split and config.valid_split: give the latter",
    )
    check_splits(config)
    follow.check_predictions(config)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `finetune`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    check(config)
    if config.save_network:
        _check_workdir(workdir)
    evaluate_one = functools.partial(evaluate, config=config, workdir=workdir)
    if not config.checkpoint:
        records = evaluate_one(None)
        follow.report(records, workdir)
        if processes.is_first_process():
            metrics.write_config(workdir, config.to_dict())
        return
    done = follow.finished(
        config, [protocol_of(config)], [config.network], config.score_split, solver=recipes.SOLVER
    )

    def known(trained: weights.Trained, record: Record) -> dict[str, Any] | None:
        if not follow.has(record, done[0]):
            return None
        return _known_settings(trained, config, workdir, record)

    follow.for_each_checkpoint(config, evaluate_one, workdir, done, known)


def _check_workdir(workdir: pathlib.Path, mark: int | None = None) -> None:
    """Refuses to put a network beside the checkpoints of another job or grid.

    Args:
      workdir: workdir of the job.
      mark: fingerprint of its grid, as `_save` writes it; None if it is not yet known.
    """
    folder = workdir / "checkpoints"
    for step in checkpoints.steps(folder):
        record = weights.read_record(folder, step)
        require(
            record["config"].get("job") == "finetune",
            f"{workdir} holds checkpoints of another job: give this one another --workdir",
        )
        require(
            mark is None or record.get("fingerprint") == mark,
            f"{folder / str(step)} is a network trained with other settings: give this one "
            "another --workdir, or move that folder away",
        )


def protocol_of(config: ml_collections.ConfigDict) -> str:
    """The protocol of the records: the config's, with the share of labels below 100 %."""
    percent = 100 * config.fraction
    return config.protocol if config.fraction == 1 else f"{config.protocol}/{percent:g}%"


def _start(
    trained: weights.Trained | None, config: ml_collections.ConfigDict, image_size: int
) -> training.Encoder:
    """The encoder that training starts from."""
    if trained is not None and config.network != "random":
        params, state = checkpoint.network_of(trained, config.network, image_size, lambda: iter(()))
        return training.encoder_weights(params, state)
    network = training.encoder_of(_spec_of(trained, config))
    return jax.device_get(init_network(config.seed, "online", network, image_size))


def _spec_of(
    trained: weights.Trained | None, config: ml_collections.ConfigDict
) -> siamese.NetworkSpec:
    """The network that is trained: the checkpoint's, or else `config.encoder`."""
    return trained.network if trained else siamese.make_spec(config.encoder.to_dict(), 0)


def _network_config(
    trained: weights.Trained | None, config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """The section `network` of the config of what is trained, as it was saved."""
    section = trained.config["network"] if trained else config.encoder.to_dict()
    return dict(section)


def _folder(
    trained: weights.Trained | None, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> pathlib.Path:
    """The folder of a grid."""
    name = re.sub(r"[^a-zA-Z0-9.%]+", "-", protocol_of(config))
    return workdir / "training" / f"{name}-{config.network}-{trained.step if trained else 0}"


def _job_of(
    trained: weights.Trained | None,
    config: ml_collections.ConfigDict,
    data: recipes.Data,
    workdir: pathlib.Path,
) -> Job:
    protocol = protocol_of(config)
    return Job(
        config=config,
        data=data,
        encoder=_start(trained, config, data.image_size),
        spec=_spec_of(trained, config),
        folder=_folder(trained, config, workdir),
        identity={
            **identity(config, trained, protocol),
            "train_dataset": config.train_dataset,
            "subset_seed": config.subset_seed,
            "bn_decay": config.bn_decay,
            "encoder": _network_config(trained, config),
        },
    )


def images_to_fit(config: ml_collections.ConfigDict, data: recipes.Data) -> images.ImageSet:
    """The images that the grid learns from: a split, a part of it, or another data set.

    Raises:
      UserError: it cannot be read, or its labels are not those of the data set.
    """
    whole = data.train_set(config.fit_split)
    if config.train_dataset:
        other = labels.labelled_set(
            config.train_dataset,
            "train",
            data.data_dir,
            key="config.train_dataset",
            decoding=data.decoding,
        )
        require(
            other.num_classes == whole.num_classes,
            f"config.train_dataset={config.train_dataset} has {other.num_classes} classes, "
            f"{data.dataset} has {whole.num_classes}",
        )
        return other
    rows = class_balanced_subset(whole, config.fraction, config.subset_seed)
    return images.select(whole, rows) if len(rows) < whole.size else whole


def evaluate(
    trained: weights.Trained | None, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Record]:
    """Trains the grid on one checkpoint, or from scratch; scores the best cell."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.held(_folder(trained, config, workdir)))
        if config.save_network:
            # Beside its cells it writes a checkpoint, as a pre-training does.
            stack.enter_context(lock.held(workdir))
        return _evaluate(trained, config, workdir)


def _evaluate(
    trained: weights.Trained | None, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Record]:
    data = recipes.data_of(config, trained)
    fit_set = images_to_fit(config, data)
    both = data.train_set(f"{config.fit_split}+{config.valid_split}") if config.refit else None
    score_split = data.split(config.score_split)
    valid_split = data.split(config.valid_split) if config.valid_split else None

    job = _job_of(trained, config, data, workdir)
    template = _record(job, trained, "", 0, {}, 0)
    follow.check_predicted(config, workdir, template, score_split.multi_label)
    cells = [*cells_of(config)]
    marks = [job.fingerprint(cell, fit_set.size) for cell in cells]
    mark = zlib.crc32(json.dumps([marks, config.refit]).encode())
    if config.save_network:
        _check_workdir(workdir, mark)
    check_folders(job, cells, fit_set, both)
    best, choice = cells[0], dict[str, Any]()
    if valid_split:
        best, choice = search(job, fit_set, valid_split)
    last_set = both or fit_set
    state, recipe = job.train(best, last_set, refit_name(best) if both else best.name)
    test = job.predict(state, last_set, score_split)
    settings = _settings(job, recipe, last_set.size) | choice
    records = [
        _record(job, trained, metric, value, settings, len(test.labels))
        for metric, value in predictions.score(test, 0, data.metric).items()
    ]
    with follow.numbers_first(records, workdir):
        if config.save_network and processes.is_first_process():
            network_config = _network_config(trained, config)
            terms = weights.terms_of(trained) if trained and config.network != "random" else {}
            of_run = {"fingerprint": mark, **terms, **to_record(fit_set.depth)}
            _save(job, best, network_config, state, workdir, of_run)
        if test.ranked is not None:
            ranked = test.ranked[:, 0]
            follow.save_predictions(config, workdir, records[0], test.ids, test.labels, ranked)
    return records


def _record(
    job: Job,
    trained: weights.Trained | None,
    metric: str,
    value: float,
    settings: dict[str, Any],
    count: int,
) -> Record:
    config = job.config
    return Record(
        metric=metric,
        value=value,
        unit="percent",
        protocol=protocol_of(config),
        network=config.network,
        dataset=job.data.dataset,
        split=config.score_split,
        n_examples=count,
        checkpoint_step=trained.step if trained and config.network != "random" else None,
        seed=config.seed,
        settings=settings,
    )


def _settings(job: Job, recipe: recipes.Recipe, num_examples: int) -> dict[str, Any]:
    """What a record says of the training beside the choice of its cell."""
    config = job.config
    settings = {
        **recipes.settings_of(recipe, job.data),
        "learning_rate": recipe.learning_rates[0],
        "epochs": recipe.total_steps * recipe.batch_size / num_examples,
        "labels": num_examples,
        "refit": config.refit,
        "bn_decay": config.bn_decay or job.spec.bn_decay,
        "fit_split": config.fit_split,
    }
    if config.train_dataset:
        settings["subset"] = config.train_dataset
    elif config.fraction < 1:
        settings["subset"] = f"class-balanced, seed {config.subset_seed}"
    return settings


def _known_settings(
    trained: weights.Trained,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    record: Record,
) -> dict[str, Any]:
    """The settings of a record that are known before a cell is chosen, and the names of the cells.

    Args:
      trained, config, workdir: as for `evaluate`.
      record: the record that they are compared with, whose scores the cells have.
    """
    data = recipes.data_of(config, trained)
    fit_set = images_to_fit(config, data)
    if config.refit:
        fit_set = data.train_set(f"{config.fit_split}+{config.valid_split}")
    job, cells = _job_of(trained, config, data, workdir), [*cells_of(config)]
    first, *others = (
        _settings(job, job.recipe(cell, fit_set.size), fit_set.size) for cell in cells
    )
    same = {k: v for k, v in first.items() if all(other[k] == v for other in others)}
    if not config.valid_split:
        return same
    scores = record.settings.get("cells", {})
    names = {"cells": {cell.name: scores.get(cell.name, "trained") for cell in cells}}
    return same | names | {"valid_split": config.valid_split}


def _save(
    job: Job,
    cell: Cell,
    network_config: dict[str, Any],
    state: classifiers.State,
    workdir: pathlib.Path,
    marks: dict[str, Any],
) -> None:
    """Writes the network as a checkpoint that every evaluation can read, as its online network.

    `marks` go into its record: the fingerprint of the grid, the depth of the images, and the terms
    of other people's weights that training started from.
    """
    heads = {leaf: values[0] for leaf, values in state.heads.items()}
    tree = {
        "online_params": {**state.encoder[0], "classifier": heads},
        "online_state": state.encoder[1],
    }
    record = {
        "config": {
            **saved.config_of(job.config, cell, job.data.cropping),
            "dataset": job.data.dataset,
            "data_dir": job.data.data_dir,
            "image_size": job.data.image_size,
            "network": network_config,
        },
        "num_classes": int(heads["b"].shape[0]),
        "total_steps": int(state.step),
        **marks,
    }
    folder = workdir / "checkpoints"
    if not checkpoints.steps(folder):
        saver = checkpoints.saver(folder, None)
        checkpoints.save(saver, int(state.step), tree, record)
        checkpoints.close(saver)
