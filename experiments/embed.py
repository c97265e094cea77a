"""The embeddings of a whole data set with a trained encoder, for search, clustering and plots.

    python -m byol_jax.main --config=experiments/embed.py \
        --config.checkpoint=runs/mine --config.dataset=folder:images --workdir=runs/embeddings

Writes `embeddings/part-00000.parquet`, ... into the workdir, with a row per image: `path`, `id`,
`label` and `embedding`. The folder is one table for pyarrow, pandas, polars and DuckDB:

    table = pyarrow.parquet.read_table("runs/embeddings/embeddings")

Images are resized and cropped as evaluations of the checkpoint do it, and nothing is augmented.
Only a batch and a row group are in memory, whatever the number of images. The same command goes on
behind the last finished part. An image that cannot be read has no row: `unreadable.txt` lists
these, and more than 1 % of them end the job. docs/outside.md describes the files.

Cost: one forward pass per image; a ResNet-50 of 224 pixels writes 6 to 8 GB per million images.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The job `embed`."""
    config = ml_collections.ConfigDict()
    config.job = "embed"
    config.checkpoint = config_dict.placeholder(str)  # a workdir, or see docs/weights.md
    config.network = "online"  # online, which BYOL keeps, or target
    config.dataset = config_dict.placeholder(str)  # empty: that of the checkpoint
    config.data_dir = config_dict.placeholder(str)  # folder of TFDS; empty: the checkpoint's
    # All images, each once; a TFDS set may have further splits. Or one split, or several with +.
    config.split = "train+valid+test"
    config.image_size = config_dict.placeholder(int)  # empty: that of the checkpoint
    config.eval_crop = config_dict.placeholder(str)  # paper, released or full; empty: likewise
    config.batch_size = 256  # images per call, over all devices
    config.format = "parquet"  # or npz: one file, made in memory, which is lost with a stopped job
    config.images_per_part = 10_000  # Parquet: images per file, unreadable ones included
    return config
