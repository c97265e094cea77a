"""Linear evaluation on ImageNet: a classifier on a frozen encoder, by SGD (BYOL App. D.1).

All rates of the sweep train in one pass over the images: the encoder, which is nearly all of the
cost, runs once for them. The rate is chosen on the validation split; the test split is read once,
by the chosen classifier.
"""

import functools
import logging
import pathlib
from typing import Any, NamedTuple

import ml_collections

from byol_jax import weights
from byol_jax.checks import check_keys
from byol_jax.data import images
from byol_jax.errors import require
from byol_jax.evals import checkpoint, follow, grid
from byol_jax.evals.sgd import classifiers, predictions, recipes, training
from byol_jax.evals.sgd.identity import identity
from byol_jax.evals.splits import Batches, check_splits
from byol_jax.evals.trainings import Place
from byol_jax.results.records import Record
from byol_jax.runtime import lock

_logger = logging.getLogger(__name__)


def protocol_of(config: ml_collections.ConfigDict) -> str:
    """`linear`, with the names of the variations of Table 7 that are in use."""
    pretrain = "/pretrain" if config.augmentation == "pretrain" else ""
    regularized = "/regularized" if config.logit_clip or config.logit_penalty else ""
    return f"linear{pretrain}{regularized}"


def check(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Refuses a config that no linear evaluation could use.

    Args:
      config: config of the job.
      devices: number of devices; by default those of the run.

    Raises:
      UserError: names the key, its value and what is allowed.
    """
    require(config.checkpoint, f"config.checkpoint is needed: {weights.KINDS}")
    check_keys(config, follow.RULES)
    recipes.check(config, devices)
    rates = len(config.learning_rates)
    require(
        config.valid_split or rates == 1,
        f"config.valid_split is empty, and config.learning_rates has {rates} rates: without a "
        "validation split give one",
    )
    check_splits(config)
    follow.check_predictions(config)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `linear`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    check(config)
    done = follow.finished(
        config, [protocol_of(config)], [config.network], config.score_split, solver=recipes.SOLVER
    )

    def known(trained: weights.Trained, record: Record) -> dict[str, Any] | None:
        return _job_of(trained, config).settings if follow.has(record, done[0]) else None

    evaluate_one = functools.partial(evaluate, config=config, workdir=workdir)
    follow.for_each_checkpoint(config, evaluate_one, workdir, done, known)


class _Job(NamedTuple):
    """What is known of an evaluation before anything is computed.

    Attributes:
      config: config of the job.
      trained: the checkpoint.
      data: data set, metric and crops.
      train_set: images that are learnt from.
      recipe: hyperparameters.
    """

    config: ml_collections.ConfigDict
    trained: weights.Trained
    data: recipes.Data
    train_set: images.ImageSet
    recipe: recipes.Recipe

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says of the training beside the choice of the rate."""
        config, recipe = self.config, self.recipe
        valid = {"valid_split": config.valid_split} if config.valid_split else {}
        return {
            **recipes.settings_of(recipe, self.data),
            "learning_rates": list(recipe.learning_rates),
            "epochs": recipe.total_steps * recipe.batch_size / self.train_set.size,
            "fit_split": config.fit_split,
            **valid,
        }

    def record(self, metric: str, value: float, settings: dict[str, Any], count: int) -> Record:
        """A record of the scored classifier."""
        score = follow.Score(protocol_of(self.config), metric, value, settings)
        scored = follow.Scored(self.data.dataset, self.config.score_split, count)
        return follow.record(self.trained, self.config.network, score, scored)


def _job_of(trained: weights.Trained, config: ml_collections.ConfigDict) -> _Job:
    data = recipes.data_of(config, trained)
    train_set = data.train_set(config.fit_split)
    recipe = recipes.recipe_of(config, data, train_set.size)
    return _Job(config, trained, data, train_set, recipe)


def evaluate(
    trained: weights.Trained, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Record]:
    """Trains and scores the classifiers of one checkpoint."""
    with lock.held(_folder(trained, config, workdir)):
        return _evaluate(_job_of(trained, config), workdir)


def _folder(
    trained: weights.Trained, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> pathlib.Path:
    """The folder of a training."""
    name = f"{protocol_of(config).replace('/', '-')}-{config.network}-{trained.step}"
    return workdir / "training" / name


def _evaluate(job: _Job, workdir: pathlib.Path) -> list[Record]:
    trained, config = job.trained, job.config
    data, recipe = job.data, job.recipe
    score_split = data.split(config.score_split)
    valid_split = data.split(config.valid_split) if config.valid_split else None
    follow.check_predicted(config, workdir, job.record("", 0, {}, 0), score_split.multi_label)

    def shuffled() -> Batches:
        return data.split(config.fit_split).shuffled()

    encoder = training.encoder_weights(
        *checkpoint.network_of(trained, config.network, data.image_size, shuffled)
    )
    network = training.encoder_of(trained.network)
    state = _train(job, workdir, encoder)
    best, choice = 0, {"learning_rate": recipe.learning_rates[0]}
    if valid_split:
        valid = predictions.predict(network, encoder, state.heads, valid_split, data.batch_size)
        best, choice = _choose(job, state, valid)
    chosen = {name: leaf[best : best + 1] for name, leaf in state.heads.items()}
    test = predictions.predict(network, encoder, chosen, score_split, data.batch_size)
    records = [
        job.record(metric, value, job.settings | choice, len(test.labels))
        for metric, value in predictions.score(test, 0, data.metric).items()
    ]
    if test.ranked is not None:
        ranked = test.ranked[:, 0]
        with follow.numbers_first(records, workdir):
            follow.save_predictions(config, workdir, records[0], test.ids, test.labels, ranked)
    return records


def _train(job: _Job, workdir: pathlib.Path, encoder: training.Encoder) -> classifiers.State:
    """Trains a classifier for each rate on the frozen encoder, or goes on with them."""
    config, trained, recipe = job.config, job.trained, job.recipe
    protocol = protocol_of(config)
    network = training.encoder_of(trained.network)
    heads = classifiers.init_heads(
        config.seed,
        len(recipe.learning_rates),
        training.feature_size(network, encoder, recipe.image_size),
        job.train_set.num_classes,
    )
    place = Place(
        directory=_folder(trained, config, workdir),
        identity=identity(config, trained, protocol),
        description=f"linear, {config.network}",
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        skip_damaged=config.skip_damaged,
    )
    return training.fit(network, job.train_set, classifiers.init(heads), encoder, recipe, place)


def _choose(
    job: _Job, state: classifiers.State, valid: predictions.Predictions
) -> tuple[int, dict[str, Any]]:
    """The index of the best rate on the validation split, and what records say of the choice."""
    rates, metric = job.recipe.learning_rates, job.data.metric
    by_rate = [
        predictions.score(valid, head, metric)[metric] if healthy else None
        for head, healthy in enumerate(state.healthy)
    ]
    diverged = [f"{rate:g}" for rate, score in zip(rates, by_rate, strict=True) if score is None]
    if diverged:
        _logger.warning("not finite, and left out: the learning rates %s", ", ".join(diverged))
    best = grid.choose(by_rate, [(-rate,) for rate in rates])
    return best, {
        f"valid_{metric}": by_rate,
        "learning_rate": rates[best],
        "learning_rate_at_end_of_grid": grid.end_of_grid("learning_rate", rates, rates[best]),
    }
