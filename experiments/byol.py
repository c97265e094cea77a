"""BYOL on ImageNet: the published recipes.

    python -m byol_jax.main --config=experiments/byol.py --workdir=runs/byol
    python -m byol_jax.main --config=experiments/byol.py:epochs=300 --workdir=runs/byol300
    python -m byol_jax.main \
        --config=experiments/byol.py:epochs=1000,batch=512,depth=200,width=2 --workdir=...

| epochs | batch | rate | decay  | tau_base | ResNet-50 top-1 | source                      |
| 1000   | 4096  | 0.2  | 1.5e-6 | 0.996    | 74.3            | App. A, Table 1a            |
| 1000   | 512   | 0.4  | 1.5e-6 | 0.9995   | 73.7            | App. H                      |
| 300    | 4096  | 0.3  | 1e-6   | 0.99     | 72.5            | section 5, App. G           |
| 100    | 4096  | 0.45 | 1e-6   | 0.99     | not published   | the authors' released code  |
| 40     | 4096  | 0.45 | 1e-6   | 0.97     | not published   | the authors' released code  |

Top-1 is linear evaluation on ImageNet (App. D.1). The smaller batches of Table 16 are the run of
300 epochs with `--config.accumulate=N`. The encoders of Table 9 use the first recipe with depth 50,
101, 152 or 200 and width 1 to 4.

Cost: 8 hours on 512 TPU v3 cores for 1000 epochs at batch 4096; 4 days on 64 cores at batch 512
(App. A and H). `--preflight=v3:16x16` compiles the step for the 512 cores (docs/scale.md).
"""

import ml_collections

from experiments import base

# (epochs, batch): base rate, weight decay, tau_base, source.
RECIPES = {
    (1000, 4096): (0.2, 1.5e-6, 0.996, "BYOL App. A"),
    (1000, 512): (0.4, 1.5e-6, 0.9995, "BYOL App. H"),
    (300, 4096): (0.3, 1e-6, 0.99, "BYOL section 5 and App. G"),
    (100, 4096): (0.45, 1e-6, 0.99, "the authors' released code"),
    (40, 4096): (0.45, 1e-6, 0.97, "the authors' released code"),
}
# Table 9: the encoders that the paper trained for 1000 epochs at batch 4096.
TABLE_9 = {
    *(("50", width) for width in (1, 2, 3, 4)),
    *(("101", width) for width in (1, 2, 3)),
    *(("152", width) for width in (1, 2, 3)),
    *(("200", width) for width in (1, 2)),
}


def recipe(epochs: int, batch: int, depth: str, width: float) -> tuple[float, float, float, str]:
    """Base rate, weight decay, tau_base, and the source of this combination.

    A batch size without a recipe takes that of 4096, whose rate scales linearly with the batch. A
    number of epochs without a recipe takes the next longer one.
    """
    if (epochs, batch) in RECIPES:
        rate, decay, tau_base, source = RECIPES[epochs, batch]
        trained = TABLE_9 if (epochs, batch) == (1000, 4096) else {("50", 1)}
        if (depth, width) in trained:
            return rate, decay, tau_base, f"published: {source}"
        return rate, decay, tau_base, f"not published: {source} with ResNet-{depth} {width:g}x"
    longer = min([e for e, b in RECIPES if b == 4096 and e >= epochs], default=1000)
    rate, decay, tau_base, source = RECIPES[longer, 4096]
    note = f"not published: the numbers of {longer} epochs at batch 4096 ({source})"
    return rate, decay, tau_base, note


@base.remembered
def get_config(options: str = "") -> ml_collections.ConfigDict:
    """A published recipe, or the nearest one with a `recipe` that says so.

    Args:
      options: `epochs=1000,batch=4096,depth=50,width=1`, all optional.

    Raises:
      ValueError: for an unknown option or a value of the wrong type.
    """
    chosen = base.parse_options(options, epochs=1000, batch=4096, depth="50", width=1.0)
    epochs, batch, depth, width = chosen.values()
    rate, decay, tau_base, source = recipe(epochs, batch, depth, width)

    config = base.get_config()
    config.recipe = source
    config.dataset = "tfds:imagenet2012"
    config.num_epochs = epochs
    config.batch_size = batch
    config.network.depth = depth
    config.network.width = width
    config.optimizer.base_learning_rate = rate
    config.optimizer.weight_decay = decay
    config.tau_base = tau_base
    return config
