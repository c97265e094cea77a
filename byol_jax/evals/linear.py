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
from byol_jax.errors import require
from byol_jax.evals import checkpoint, follow
from byol_jax.evals.grid import end_of_grid
from byol_jax.evals.sgd import classifiers, recipes, training
from byol_jax.evals.splits import Batches, check_disjoint
from byol_jax.results.records import Record


def protocol_of(config: ml_collections.ConfigDict) -> str:
    """`linear`, and in its name what Table 7 varies."""
    pretrain = "/pretrain" if config.augmentation == "pretrain" else ""
    regularized = "/regularized" if config.logit_clip or config.logit_penalty else ""
    return f"linear{pretrain}{regularized}"


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `linear`.

    Raises:
      UserError: for a config that does not fit, before anything is computed.
    """
    recipes.check(config)
    splits = {"fit_split": config.fit_split, "score_split": config.score_split}
    if config.valid_split:
        splits["valid_split"] = config.valid_split
    else:
        require(
            len(config.learning_rates) == 1,
            f"config.valid_split is empty, and {len(config.learning_rates)} learning rates are "
            "given: without a validation split give one",
        )
    check_disjoint({f"config.{key}": split for key, split in splits.items()})
    follow.for_each_checkpoint(
        config,
        functools.partial(evaluate, config=config, workdir=workdir),
        workdir,
        **recipes.finished(config, protocol_of(config)),
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
    heads = classifiers.init_heads(
        config.seed,
        len(recipe.learning_rates),
        training.feature_size(network, encoder, data.image_size),
        train_set.num_classes,
    )
    state = training.fit(
        network,
        train_set,
        classifiers.init(heads),
        encoder,
        recipe,
        description=f"linear, {config.network}",
        directory=workdir
        / "training"
        / f"{protocol_of(config).replace('/', '-')}-{config.network}-{trained.step}",
        record=recipes.identity(config, trained, protocol_of(config)),
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )
    settings: dict[str, Any] = {
        **training.settings_of(recipe),
        "learning_rates": list(recipe.learning_rates),
        "epochs": recipe.total_steps * recipe.batch_size / train_set.size,
        "fit_split": config.fit_split,
        "eval_crop": data.eval_crop,
    }
    best = 0
    if valid_split:
        valid = training.predict(network, encoder, state.heads, valid_split, data.batch_size)
        by_rate = [
            training.score(valid, head, data.metric)[data.metric]
            for head in range(len(recipe.learning_rates))
        ]
        best = int(np.argmax(by_rate))
        settings |= {"valid_split": config.valid_split, f"valid_{data.metric}": by_rate}
    rate = recipe.learning_rates[best]
    settings["learning_rate"] = rate
    if valid_split:
        settings["learning_rate_at_end_of_grid"] = end_of_grid(
            "learning_rate", recipe.learning_rates, rate
        )
    chosen = {name: leaf[best : best + 1] for name, leaf in state.heads.items()}
    test = training.predict(network, encoder, chosen, score_split, data.batch_size)
    return [
        follow.record(
            trained,
            config.network,
            protocol=protocol_of(config),
            metric=metric,
            value=value,
            dataset=data.dataset,
            split=config.score_split,
            n_examples=len(test.labels),
            settings=settings,
        )
        for metric, value in training.score(test, 0, data.metric).items()
    ]
