"""Labelled images to learn from, and the metric that goes with their labels."""

from byol_jax.data import images, sources, stored
from byol_jax.errors import require


def labelled_set(
    dataset: str,
    split: str,
    data_dir: str | None,
    benchmark: str | None = None,
    key: str = "config.dataset",
    decoding: images.Decoding = images.AS_STORED,
) -> images.ImageSet:
    """A split to learn labels from.

    Args:
      dataset, split, data_dir, benchmark, key, decoding: as in `sources.load`.

    Raises:
      UserError: it cannot be read, or has no labels.
    """
    image_set = sources.load(dataset, split, data_dir, benchmark, key=key, decoding=decoding)
    stored.check_readable(image_set)
    require(
        image_set.num_classes > 1,
        f"{image_set.title} has {image_set.num_classes} classes: a classifier needs two or more, "
        "as sub-folders or labels",
    )
    return image_set


def check_metric(metric: str, multi_label: bool) -> None:
    """Refuses a metric that does not go with the number of labels per image.

    Raises:
      UserError: names the metrics that do.
    """
    allowed = ("map_11",) if multi_label else ("top1", "mean_per_class")
    labels = "several labels per image" if multi_label else "one label per image"
    require(
        metric in allowed, f"config.metric={metric!r} must be {' or '.join(allowed)} for {labels}"
    )
