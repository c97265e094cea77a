"""Pictures of views: a recipe applied to a user's own images, and each operation by itself."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from matplotlib import figure

from byol_jax import keys, prepare
from byol_jax.augment import byol, compose
from byol_jax.data import crops, folder, images, pipeline, stored
from byol_jax.data.views import examples
from byol_jax.errors import UserError, require
from byol_jax.method import check, views_of
from byol_jax.runtime import disk, paths, processes

# Side of a cell in inches, and the least number of pixels per inch.
_CELL, _DPI = 1.5, 100

# Title of each panel, and the operations applied in it. The first ten are SimCLR Figure 4.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "original": (),
    "crop, resize": ("crop",),
    "crop, resize, flip": ("crop", "flip"),
    "colour drop": ("grayscale",),
    "colour jitter": ("color_jitter",),
    "rotate": ("rotate",),
    "cutout": ("cutout",),
    "Gaussian noise": ("noise",),
    "Gaussian blur": ("blur",),
    "Sobel filter": ("sobel",),
    "solarize": ("solarize",),
    "equalize": ("equalize",),
    "motion blur": ("motion_blur",),
    "RandAugment": ("randaugment",),
    "AutoAugment": ("autoaugment",),
}
_COLUMNS = 5
# One function, so that views of one size are compiled once.
_make_views = jax.jit(compose.make_views, static_argnames="view")


def draw(
    image_set: images.ImageSet,
    ids: np.ndarray,
    draws: int,
    config: ml_collections.ConfigDict,
) -> np.ndarray:
    """Views of examples as the run of this config sees them in its first epochs.

    Args:
      image_set: training images of the config.
      ids: ids of the examples, int64 `[n]`.
      draws: number of views per image and kind, one per epoch.
      config: a pre-training config.

    Returns:
      uint8 `[n, 2, draws, S, S, 3]`: T, then T'.
    """
    key = keys.named_key(config.seed, "augment")
    columns = views_of(config)[:2]  # T and T'
    epochs = []
    for epoch in range(draws):
        batch = pipeline.example_views(
            image_set,
            ids,
            np.full_like(ids, epoch),
            config.seed,
            columns,
            config.data.exif,
        )
        views = [
            _make_views(
                batch[f"view{view}"],
                batch["ids"],
                batch["epochs"],
                key,
                view=view,
                params=column.params,
            )
            for view, column in enumerate(columns, start=1)
        ]
        epochs.append(np.stack([byol.denormalize(v) for v in views], axis=1))
    pixels = np.clip(np.stack(epochs, axis=2), 0, 1)
    return np.rint(pixels * 255).astype(np.uint8)


def grid(pictures: list[np.ndarray | None], views: np.ndarray) -> figure.Figure:
    """One row per image: the whole image, then its views.

    Args:
      pictures: whole images, uint8 `[H, W, 3]` of any size; None if an image cannot be read.
      views: views per image, uint8 `[n, 2, draws, S, S, 3]`.
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
    """Writes `views.png`: the first images of this config's run, unchanged, beside T and T'.

    Raises:
      UserError: the config or the images cannot be used.
    """
    check(config)
    for name in ("images", "draws"):
        value = config.views[name]
        require(value >= 1, f"config.views.{name}={value} must be 1 or more")
    image_set = prepare.load_images(config)
    count = min(config.views.images, image_set.size)
    ids, _ = examples(config.seed, image_set.size, 0, count)
    pictures = [stored.picture(image_set, i, exif=config.data.exif) for i in ids.tolist()]
    sheet = grid(pictures, draw(image_set, ids, config.views.draws, config))
    _write(sheet, workdir / "views.png")


def _write(sheet: figure.Figure, path: pathlib.Path) -> None:
    if processes.is_first_process():
        with disk.replacing(path) as file:
            sheet.savefig(file)
        print(f"written: {path}", flush=True)


def draw_operations(
    pixels: np.ndarray, jitter: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Applies each of `OPERATIONS` with probability 1, all with the same key.

    Args:
      pixels: the image, uint8 `[S, S, 3]`.
      jitter: the `max` values of `AugmentParams`.
      seed: seed of the key.

    Returns:
      Panels uint8 `[S, S, 3]` by title.
    """
    key = keys.named_key(seed, "operations")
    image = byol.to_float(jnp.asarray(pixels))
    # The blur is the strongest of App. C, as a weak one can hardly be seen. Operations with
    # probability 0 stay in the program, so that one program draws all panels.
    unchanged = compose.AugmentParams(
        **{**jitter, **dict.fromkeys(compose.PROBABILITIES, 0.0), "blur_sigma_min": 2.0}
    )
    make_view = jax.jit(compose.make_view)
    panels = {}
    for title, names in OPERATIONS.items():
        view = make_view(image, key, unchanged._replace(**dict.fromkeys(names, 1.0)))
        panels[title] = np.rint(np.asarray(view) * 255).astype(np.uint8)
    return panels


def titled(panels: Mapping[str, np.ndarray]) -> figure.Figure:
    """Panels uint8 `[S, S, 3]` in rows of five, each below its title."""
    rows = -(-len(panels) // _COLUMNS)
    size = max(len(panel) for panel in panels.values())
    sheet = figure.Figure(
        figsize=(_CELL * _COLUMNS, (_CELL + 0.2) * rows),
        dpi=max(_DPI, size / _CELL),
        layout="constrained",
    )
    for axis in sheet.subplots(rows, _COLUMNS, squeeze=False).flat:
        axis.set_axis_off()
    for axis, (title, panel) in zip(sheet.axes, panels.items(), strict=False):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(title, fontsize="small")
    return sheet


def center_crop(path: str, size: int) -> np.ndarray:
    """The centre of an image file, upright, its short side resized to S: uint8 `[S, S, 3]`.

    Raises:
      UserError: the file does not exist, or is not a readable image.
    """
    file = paths.outside(path, "config.image")
    try:
        file.read_bytes()
    except OSError as error:
        raise UserError(
            f"config.image={path} cannot be read ({error.strerror}): name another image file"
        ) from error
    image_set = folder.files_set(f"config.image={path}", [str(file)])
    reason = stored.read_example(image_set, 0, exif=True).reason
    require(not reason, f"config.image={path} cannot be read ({reason}): name another image file")
    picture = stored.picture(image_set, 0, exif=True)
    if picture is None:
        raise UserError(f"config.image={path} is damaged: name another image file")
    height, width, _ = picture.shape
    placement = crops.center_placement(height, width, size, "full")
    return crops.place(picture, placement, size)


def run_operations(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `operations.png`: one image after each augmentation by itself.

    Raises:
      UserError: the image or a number in the config cannot be used.
    """
    require(config.image, "config.image is needed: set it to the path of an image file")
    require(config.image_size >= 1, f"config.image_size={config.image_size} must be 1 or more")
    require(0 <= config.seed < 2**31, f"config.seed={config.seed} must be from 0 to 2**31 - 1")
    pixels = center_crop(config.image, config.image_size)
    sheet = titled(draw_operations(pixels, config.jitter.to_dict(), config.seed))
    _write(sheet, workdir / "operations.png")
