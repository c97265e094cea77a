"""A page to look at: what a run did, what it sees, and what its representation is like.

    python -m byol_jax.main --config=experiments/report.py --config.checkpoint=runs/mine

Writes `report.html` into the workdir of the run, or into `--workdir` if that is given: one file of
less than 3 MB that needs no network. It holds the curves of the run, with what is healthy said
beside them; T and T' of its own images; nearest neighbours; PCA and t-SNE of at most 2,000 images
(SimCLR Figure B.4); results with their protocols; and the recipe with what was changed of it. A run
with `--config.finish.report=True` writes the same at its end.

Images are read where the run read them. If they are elsewhere now, `--config.dataset=` says where.

Cost: one forward pass per shown image and some 15 seconds of t-SNE.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `report`."""
    config = ml_collections.ConfigDict()
    config.job = "report"
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or one of its checkpoints/STEP
    config.network = "online"  # online, which BYOL keeps, or target
    config.dataset = config_dict.placeholder(str)  # empty: that of the checkpoint
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS; empty: the checkpoint's
    # Images of the maps and of the neighbours; empty: the scored ones of a run that evaluates
    # itself, otherwise those that it is trained on.
    config.split = config_dict.placeholder(str)
    config.points = 2000  # most images of the maps; more take long and do not fit into the file
    config.batch_size = 256  # images per call, over all devices
    return config
