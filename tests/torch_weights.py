"""Random weights of an encoder under the names of PyTorch."""

import numpy as np

from byol_jax.networks.siamese import NetworkSpec
from byol_jax.weights import layout


def drawn(spec: NetworkSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays of an encoder by torchvision's names."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, shape in layout.expected(spec).items():
        value = rng.normal(0, 0.1, shape)
        if name.endswith("running_var") or name.endswith(("bn1.weight", "bn2.weight")):
            value = 1 + abs(value)
        arrays[name] = value.astype(np.float32)
        if name.endswith("running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            arrays[counter] = np.array(7, np.int64)
    return arrays
