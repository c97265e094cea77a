"""The encoder of a checkpoint as a function of images; BYOL discards everything else (Figure 2)."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import weights
from byol_jax.augment import byol
from byol_jax.data import folder, formats, pipeline, stored
from byol_jax.errors import UserError, require
from byol_jax.evals import checkpoint
from byol_jax.networks import siamese
from byol_jax.runtime import paths, spmd

# Networks of a checkpoint that are trained.
NETWORKS = ("online", "target")
# A file, or a folder of files.
Path = str | os.PathLike[str]


class Encoder(NamedTuple):
    """f with its weights. Calling it gives the representations of images.

    Attributes:
      network: f as a Haiku function.
      params, state: weights and BatchNorm averages.
      trained: what is known of the training, without its arrays.
      name: `online` or `target`.
      batch_size: most images per call of the devices.
    """

    network: hk.TransformedWithState
    params: weights.Tree
    state: weights.Tree
    trained: weights.Trained
    name: str
    batch_size: int

    def __repr__(self) -> str:
        spec = self.trained.network
        size = f"ResNet-{spec.depth}" + ("" if spec.width == 1 else f" {spec.width:g}x")
        return f"Encoder({size}, {self.name}, dim {self.dim}, {self.image_size} px)"

    @property
    def dim(self) -> int:
        """Numbers in the representation of an image."""
        return _dim(self.network, self.trained.image_size)

    @property
    def image_size(self) -> int:
        """Side in pixels to which files are resized and cropped."""
        return self.trained.image_size

    def __call__(self, images: Any) -> np.ndarray:
        """The representations y of images.

        Args:
          images: uint8 `[N, H, W, 3]`, or floats in [0, 1] of that shape, which are taken as they
            are; a path of a folder, whose image files are taken in the order of `files`; or a list
            of paths of image files. Files are decoded, resized and cropped as evaluations of the
            checkpoint do it.

        Returns:
          float32 `[N, dim]`, in the order of the images.

        Raises:
          UserError: it is none of these, a folder has no image, or a file cannot be read.
        """
        return encode(self, images)


def load_encoder(
    path: Path, network: str = "online", batch_size: int = 256, image_size: int | None = None
) -> Encoder:
    """The encoder of a checkpoint.

    Args:
      path: a workdir, whose newest checkpoint is read, one of its `checkpoints/STEP`, or a file of
        weights (`weights.load`).
      network: `online`, which BYOL keeps (section 3.1), or `target`.
      batch_size: most images per call, over all local devices.
      image_size: side in pixels to which files are resized and cropped; by default that of the
        training, or 224 (32 for a small stem) where the weights do not say it.

    Raises:
      UserError: there is no checkpoint, it is damaged, or it has no such network.
    """
    require(network in NETWORKS, f"network={network!r} must be one of: {', '.join(NETWORKS)}")
    require(batch_size >= 1, f"batch_size={batch_size} must be 1 or more")
    is_size = image_size is None or image_size >= 1
    require(is_size, f"image_size={image_size} must be 1 or more, or None")
    trained = weights.load(os.fspath(path))
    trained = trained._replace(image_size=image_size or trained.image_size)
    params, state = checkpoint.network_of(
        trained, network, trained.image_size, shuffled=lambda: iter(())
    )
    return Encoder(
        network=siamese.encoder(trained.network),
        params=siamese.encoder_params(params),
        state=siamese.encoder_params(state),
        trained=trained._replace(
            online_params={}, online_state={}, target_params={}, target_state={}
        ),
        name=network,
        batch_size=batch_size,
    )


@functools.lru_cache(maxsize=8)
def _dim(network: hk.TransformedWithState, image_size: int) -> int:
    crops = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)

    def outputs(crops: jax.Array) -> jax.Array:
        params, state = network.init(jax.random.key(0), crops, True)
        return network.apply(params, state, None, crops, False)[0]["embedding"]

    return int(jax.eval_shape(outputs, crops).shape[1])


def files(directory: Path) -> list[str]:
    """The image files of a folder and its sub-folders, in the order of their embeddings.

    Raises:
      UserError: there is no such folder, or it has no image.
    """
    root = paths.outside(directory, "images")
    require(root.is_dir(), f"images={str(directory)!r} is no folder")
    found = [str(root / name) for name in folder.image_files(root)]
    require(found, f"the folder {root} has no image: {', '.join(formats.ENDINGS)}")
    return found


def encode(encoder: Encoder, images: Any) -> np.ndarray:
    """See `Encoder.__call__`."""
    name = "the list of files"
    if isinstance(images, str | os.PathLike):
        name = f"the folder {paths.outside(images, 'images')}"
        images = files(images)
    is_list = isinstance(images, Sequence) and not isinstance(images, np.ndarray)
    if is_list and images and all(isinstance(x, str | os.PathLike) for x in images):
        found = [str(paths.outside(x, "images")) for x in images]
        for path in found:
            require(os.path.exists(path), f"images: there is no file {path}")
        return _encode(encoder, _crops(encoder, found, name), len(found))
    array = _checked(images)
    size = _batch_size(encoder, len(array))
    batches = (array[start : start + size] for start in range(0, len(array), size))
    return _encode(encoder, batches, len(array))


def _checked(images: Any) -> np.ndarray:
    """Images as an array that the network may take.

    Raises:
      UserError: it has another shape or other values.
    """
    array = np.asarray(images)
    require(
        array.ndim == 4 and array.shape[-1] == 3,
        f"images {array.dtype} {list(array.shape)} must be [N, H, W, 3], paths of files or a "
        "folder" + ("; one image is images[None]" if array.ndim == 3 else ""),
    )
    require(
        array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating),
        f"images are {array.dtype}: give uint8 from 0 to 255, or floats from 0 to 1",
    )
    if array.dtype == np.uint8 or not array.size:
        return array
    low, high = float(array.min()), float(array.max())
    require(
        0 <= low <= high <= 1,
        f"images are floats from {low:g} to {high:g}, and must be from 0 to 1, not normalised: "
        "divide by 255, or give uint8",
    )
    return array.astype(np.float32)


def _crops(encoder: Encoder, paths: list[str], name: str) -> Iterator[np.ndarray]:
    """Evaluation crops of image files, in order; `name` is what errors call all of them.

    Raises:
      UserError: a file cannot be read.
    """
    image_set = folder.files_set(name, paths, encoder.trained.decoding)
    batches = pipeline.evaluation_batches(
        image_set,
        image_size=encoder.image_size,
        mode=encoder.trained.cropping.eval_crop,
        batch_size=_batch_size(encoder, len(paths)),
        exif=encoder.trained.cropping.exif,
    )
    following = 0
    for batch in batches:
        # A row per file: none may be left out without a word.
        expected = np.arange(following, following + len(batch["ids"]))
        skipped = expected[batch["ids"] != expected]
        if skipped.size:
            following = int(skipped[0])
            break
        following += len(expected)
        yield batch["images"]
    if following < len(paths):
        exif = encoder.trained.cropping.exif
        reason = stored.read_example(image_set, following, exif).reason
        why = f" ({reason})" if reason else ""
        raise UserError(
            f"{paths[following]} cannot be read as an image{why}: repair or leave it out"
        )


def _batch_size(encoder: Encoder, count: int) -> int:
    """Images per call: a power of two for a few images, so that not every number compiles."""
    return min(encoder.batch_size, 1 << max(count - 1, 0).bit_length())


def _encode(encoder: Encoder, batches: Iterable[np.ndarray], count: int) -> np.ndarray:
    if not count:
        return np.zeros((0, encoder.dim), np.float32)
    forward = _forward(encoder.network)
    return spmd.map_batches(
        forward, batches, _batch_size(encoder, count), (encoder.params, encoder.state)
    )


def on_crops(encoder: Encoder, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """The encoder as a function of one batch, for sets whose embeddings are not all kept.

    Args:
      encoder: its weights are sent to the devices once.
      batch_size: most images per call, over all local devices.

    Returns:
      A function from crops uint8 `[b, S, S, 3]` to representations float32 `[b, dim]`.
    """
    weights_of = (encoder.params, encoder.state)
    return spmd.on_batches(_forward(encoder.network), batch_size, weights_of)


@functools.lru_cache(maxsize=8)
def _forward(network: hk.TransformedWithState) -> Any:
    """One function per network, so that it is compiled once."""

    def forward(batch: jax.Array, params: weights.Tree, state: weights.Tree) -> jax.Array:
        is_whole = batch.dtype == jnp.uint8
        views = byol.evaluation_views(batch) if is_whole else byol.normalize(batch)
        return network.apply(params, state, None, views, False)[0]["embedding"]

    return forward
