"""The job `views`: a picture of what a recipe makes of a user's own images."""

import pathlib

import jax
import ml_collections
import numpy as np
from matplotlib import figure

from byol_jax import augment, keys, train
from byol_jax.data import images, pipeline, reader
from byol_jax.errors import require

# Inches of a cell, and the pixels an inch has at least.
_CELL, _DPI = 1.5, 100


def draw(
    image_set: images.ImageSet,
    ids: np.ndarray,
    draws: int,
    config: ml_collections.ConfigDict,
) -> np.ndarray:
    """Views of examples as the run of this config sees them in its first epochs.

    Args:
      image_set: what the config trains on.
      ids: int64 `[n]`.
      draws: views of each kind, one an epoch.
      config: a pre-training config.

    Returns:
      uint8 `[n, 2, draws, S, S, 3]`: T, then T'.
    """
    key = keys.named_key(config.seed, "augment")
    augmented = jax.jit(augment.make_views, static_argnames="view")
    epochs = []
    for epoch in range(draws):
        batch = pipeline.example_views(
            image_set,
            ids,
            np.full_like(ids, epoch),
            seed=config.seed,
            image_size=config.image_size,
            area_range=(config.data.area_min, config.data.area_max),
            aspect_range=(config.data.aspect_min, config.data.aspect_max),
            exif=config.data.exif,
        )
        views = [
            augmented(batch[name], batch["ids"], batch["epochs"], key, view=view, params=params)
            for view, (name, params) in enumerate(
                zip(("view1", "view2"), train.view_parameters(config), strict=True), start=1
            )
        ]
        epochs.append(np.stack([augment.denormalize(v) for v in views], axis=1))
    pixels = np.clip(np.stack(epochs, axis=2), 0, 1)
    return np.rint(pixels * 255).astype(np.uint8)


def grid(pictures: list[np.ndarray | None], views: np.ndarray) -> figure.Figure:
    """A row for each image: itself, whole, then its views.

    Args:
      pictures: uint8 `[H, W, 3]` of any size; None where there is none.
      views: uint8 `[n, 2, draws, S, S, 3]`.
    """
    count, _, draws, size = views.shape[:4]
    columns = 1 + 2 * draws
    sheet = figure.Figure(
        figsize=(_CELL * columns, _CELL * count + 0.3),
        dpi=max(_DPI, size / _CELL),
        layout="constrained",
    )
    axes = sheet.subplots(count, columns, squeeze=False)
    titles = ["image", *["T"] * draws, *["T'"] * draws]
    for row, picture in enumerate(pictures):
        for column, (axis, title) in enumerate(zip(axes[row], titles, strict=True)):
            axis.set_axis_off()
            shown = picture if column == 0 else views[row].reshape(-1, size, size, 3)[column - 1]
            if shown is not None:
                axis.imshow(shown, interpolation="nearest")
            if row == 0:
                axis.set_title(title)
    return sheet


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `views.png`: the first images of the run of this config, untouched, and T and T'.

    Raises:
      UserError: for a config or images that cannot be used.
    """
    train.check(config)
    for name in ("images", "draws"):
        value = config.views[name]
        require(value >= 1, f"config.views.{name}={value} must be at least 1")
    image_set = train.load_images(config)
    count = min(config.views.images, image_set.size)
    ids, _ = pipeline.stream(config.seed, image_set.size, 0, count)
    pictures = [reader.picture(image_set, i, exif=config.data.exif) for i in ids.tolist()]
    sheet = grid(pictures, draw(image_set, ids, config.views.draws, config))
    workdir.mkdir(parents=True, exist_ok=True)
    sheet.savefig(workdir / "views.png")
    print(f"written: {workdir / 'views.png'}", flush=True)
