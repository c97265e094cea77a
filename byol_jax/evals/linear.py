"""Linear evaluation on ImageNet: a classifier on a frozen encoder, by SGD (BYOL App. D.1).

All rates of the sweep train in one pass over the images: the encoder, which is nearly all of the
cost, runs once for them. The rate is chosen on the validation split; the test split is read once,
by the chosen classifier.
"""

import functools
import pathlib
from typing import Any

import ml_collections
import numpy as np

from byol_jax import weights
from byol_jax.data import images
from byol_jax.errors import require
from byol_jax.evals import checkpoint, follow
from byol_jax.evals.grid import end_of_grid
from byol_jax.evals.sgd import classifiers, predictions, recipes, training
from byol_jax.evals.sgd.identity import identity
from byol_jax.evals.splits import Batches, check_splits
from byol_jax.results.records import Record


def protocol_of(config: ml_collections.ConfigDict) -> str:
    """`linear`, with the names of the variations of Table 7 that are in use."""
    pretrain = "/pretrain" if config.augmentation == "pretrain" else ""
    regularized = "/regularized" if config.logit_clip or config.logit_penalty else ""
    return f"linear{pretrain}{regularized}"


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `linear`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    recipes.check(config)
    rates = len(config.learning_rates)
    require(
        config.valid_split or rates == 1,
        f"config.valid_split is empty, and config.learning_rates has {rates} rates: without a "
        "validation split give one",
    )
    check_splits(config)
    protocol = protocol_of(config)
    follow.for_each_checkpoint(
        config,
        functools.partial(evaluate, config=config, workdir=workdir),
        workdir,
        **follow.finished(
            config, protocol, [config.network], config.score_split, solver=recipes.SOLVER
        ),
    )


def evaluate(
    trained: weights.Trained, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[Record]:
    """Trains and scores the classifiers of one checkpoint."""
    data = recipes.data_of(config, trained)
    train_set = data.train_set(config.fit_split)
    recipe = recipes.recipe_of(config, data, train_set.size)
    score_split = data.split(config.score_split)
    valid_split = data.split(config.valid_split) if config.valid_split else None

    def shuffled() -> Batches:
        return data.split(config.fit_split).shuffled()

    encoder = training.encoder_weights(
        *checkpoint.network_of(trained, config.network, data.image_size, shuffled)
    )
    network = training.encoder_of(trained.network)
    state = _train(trained, config, workdir, encoder, train_set, recipe)
    best, choice = 0, {"learning_rate": recipe.learning_rates[0]}
    if valid_split:
        valid = predictions.predict(network, encoder, state.heads, valid_split, data.batch_size)
        best, choice = _choose(config, recipe, data.metric, valid)
    chosen = {name: leaf[best : best + 1] for name, leaf in state.heads.items()}
    test = predictions.predict(network, encoder, chosen, score_split, data.batch_size)
    settings = {
        **recipes.settings_of(recipe),
        "learning_rates": list(recipe.learning_rates),
        "epochs": recipe.total_steps * recipe.batch_size / train_set.size,
        "fit_split": config.fit_split,
        "eval_crop": data.cropping.eval_crop,
        **choice,
    }
    scored = follow.Scored(data.dataset, config.score_split, len(test.labels))
    return [
        follow.record(
            trained,
            config.network,
            follow.Score(protocol_of(config), metric, value, settings),
            scored,
        )
        for metric, value in predictions.score(test, 0, data.metric).items()
    ]


def _train(
    trained: weights.Trained,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    encoder: training.Encoder,
    train_set: images.ImageSet,
    recipe: recipes.Recipe,
) -> classifiers.State:
    """Trains a classifier for each rate on the frozen encoder, or goes on with them."""
    protocol = protocol_of(config)
    network = training.encoder_of(trained.network)
    heads = classifiers.init_heads(
        config.seed,
        len(recipe.learning_rates),
        training.feature_size(network, encoder, recipe.image_size),
        train_set.num_classes,
    )
    name = f"{protocol.replace('/', '-')}-{config.network}-{trained.step}"
    place = training.Place(
        directory=workdir / "training" / name,
        identity=identity(config, trained, protocol),
        description=f"linear, {config.network}",
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
    )
    return training.fit(network, train_set, classifiers.init(heads), encoder, recipe, place)


def _choose(
    config: ml_collections.ConfigDict,
    recipe: recipes.Recipe,
    metric: str,
    valid: predictions.Predictions,
) -> tuple[int, dict[str, Any]]:
    """The index of the best rate on the validation split, and what records say of the choice."""
    rates = recipe.learning_rates
    by_rate = [predictions.score(valid, head, metric)[metric] for head in range(len(rates))]
    best = int(np.argmax(by_rate))
    return best, {
        "valid_split": config.valid_split,
        f"valid_{metric}": by_rate,
        "learning_rate": rates[best],
        "learning_rate_at_end_of_grid": end_of_grid("learning_rate", rates, rates[best]),
    }
