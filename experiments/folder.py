"""BYOL on your own images, with a recipe that is chosen from them: the first run to make.

    python -m byol_jax.main --config=experiments/folder.py --config.dataset=folder:images \
        --workdir=runs/mine

Looks at the number of the images, their size, colours and labels, and at the devices; chooses the
network, the resolution, the batch, the length, the rates, tau and the crops; and prints each choice
with its reason. Images without labels are all trained on, as nothing is scored. At its end the run
writes report.html, a page to look at; encoder/, for PyTorch; and embeddings/, a row per image.

To look at T and T' of the chosen recipe first, which writes runs/mine/views.png:

    python -m byol_jax.main --config=experiments/folder.py --config.dataset=folder:images \
        --workdir=runs/mine --config.job=views

Every key can be given, as in --config.num_epochs=300 --config.network.depth=50, and the keys that
depend on it follow. byol_jax/jobs/recipe.py has the rules, docs/own-data.md what to turn by hand
and what to expect.

Cost: on a CPU of two cores half an hour to an hour, less for a few hundred images; on a GPU 1000
epochs of a small set, 100 of a large one. A line after the first steps says how long it will take.

No paper has this recipe. Its parts are from the authors' presets for 100 to 1000 epochs and from
their run on Imagenette (imagenette.py).
"""

import ml_collections
from ml_collections import config_dict

from experiments import base

# Keys that are chosen, and their types.
_CHOSEN = {
    int: (
        *("image_size", "batch_size", "accumulate", "log_every", "checkpoint_every"),
        *("network.projector.hidden_size", "network.projector.output_size"),
        "network.predictor.hidden_size",
    ),
    float: (
        *("num_epochs", "tau_base", "data.area_min", "network.width"),
        *("optimizer.base_learning_rate", "optimizer.weight_decay", "optimizer.warmup_epochs"),
        *(f"augment.view{i}.{name}" for i in (1, 2) for name in ("saturation_max", "hue_max")),
        *("augment.view1.grayscale", "augment.view2.grayscale"),
    ),
    str: (
        *("network.depth", "network.stem", "data.split", "data.eval_crop"),
        *("evaluation.fit_split", "evaluation.score_split"),
    ),
    bool: ("data.scaled_decoding", "evaluation.at_end"),
}


@base.remembered
def get_config() -> ml_collections.ConfigDict:
    """A pre-training whose open keys are chosen from the images."""
    config = base.get_config()
    config.recipe = "not published: chosen from the images (experiments/folder.py)"
    config.choose = True
    for kind, keys in _CHOSEN.items():
        for key in keys:
            *path, name = key.split(".")
            section = config
            for part in path:
                section = section[part]
            del section[name]
            section[name] = config_dict.placeholder(kind)
    config.finish.report = True
    config.finish.export = True
    config.finish.embed = True
    return config
