"""A trained encoder as one folder that PyTorch, timm, ONNX, TensorFlow and JAX read.

    python -m byol_jax.main --config=experiments/export.py \
        --config.checkpoint=runs/byol --workdir=exports/byol

The folder holds the weights under torchvision's names (model.safetensors), the network in plain
PyTorch that fits them (byol_resnet.py, hubconf.py), how images are prepared (config.json), and a
model card with the protocol numbers of the run (README.md). docs/export.md describes the formats,
and the padding for which torchvision's and timm's own networks are wrong at 224 pixels.

    --config.formats=timm+onnx+saved_model+stablehlo

adds encoder.onnx, saved_model/ and encoder.stablehlo, and refuses networks that timm cannot hold.

Cost: seconds.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `export`."""
    config = ml_collections.ConfigDict()
    config.job = "export"
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    config.network = "online"  # or target
    # Joined by +: torch (always), timm (a condition), onnx, saved_model, stablehlo.
    config.formats = "torch"
    # Terms of the weights, as in apache-2.0; empty: those of their origin, or none.
    config.licence = config_dict.placeholder(str)
    config.overwrite = False  # whether an earlier export in the folder is replaced
    return config
