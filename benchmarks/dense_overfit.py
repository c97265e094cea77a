"""Whether a network can learn eight images by heart: segmentation and depth, on real images.

    python benchmarks/dense_overfit.py --masks=voc:DIR,train=train --depth=depth:DIR

Segmentation: mIoU on the eight training images beside what free logits at a stride of 16, trained
on the same masks, reach: no network of that stride can do better by much. Depth: rms inside the
crop, and stretched over the frame, beside those of a perfect prediction at the size of the output.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from byol_jax.augment.dense import DepthColours
from byol_jax.data.dense import resize, sets, sources, transforms
from byol_jax.data.dense.sets import DenseSet, Sample
from byol_jax.dense import bilinear, pixels, segmentation
from byol_jax.evals import trainings
from byol_jax.evals.dense import measure, recipes, steps, training
from byol_jax.networks import siamese
from byol_jax.networks.fcn import FCN
from byol_jax.networks.upproj import UpProjection

READING = measure.Reading(8)
SEED = 0


def squares(dense_set: DenseSet, side: int) -> DenseSet:
    """The first images and masks of a set, as squares in memory."""
    samples = []
    for i in range(8):
        stored = dense_set.read(i)
        height, width = stored.target.shape
        image = np.empty((side, side, 3), np.uint8)
        window = (0, 0, height, width)
        resize.bilinear(stored.image, image, window, (side, side))
        target = resize.nearest(stored.target, (side, side), window, (side, side))
        samples.append(Sample(image, target))
    return sets.select(dense_set, np.arange(8))._replace(
        read=lambda i: samples[i], shape_of=lambda i: (side, side)
    )


def fit(
    dense_set: DenseSet,
    program: steps.Program,
    transform: recipes.Transform,
    num_steps: int,
    rate: float,
) -> measure.Predict:
    """Trains a network on the set, without augmentation, in a folder of its own."""
    recipe = recipes.Recipe(
        seed=SEED,
        batch_size=8,
        total_steps=num_steps,
        learning_rate=rate,
        milestones=(0.7, 0.9),
        momentum=0.9,
        weight_decay=0.0,
        program=program,
        transform=transform,
        colours=DepthColours(0.0, 0.0, 0.0, 0.0),
    )
    encoder = jax.device_get(
        siamese.init_network(SEED, "online", siamese.encoder(program.spec), 64)
    )
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = trainings.Place(pathlib.Path(folder), {"protocol": "overfit"}, "overfit")
        params, bn_state = training.fit(dense_set, encoder, recipe, place)
    print(f"{num_steps} steps in {time.monotonic() - start:.0f} s", flush=True)
    predict: measure.Predict = training.predictor(program, params, bn_state, 8)
    return predict


def free_logits(dense_set: DenseSet, side: int) -> measure.Predict:
    """Logits at a stride of 16, one per position of each image, trained on their masks."""
    targets = jnp.asarray(np.stack([dense_set.read(i).target for i in range(8)]))
    small = (side - 1) // 16 + 1
    logits = jnp.zeros((8, small, small, len(dense_set.classes)))
    optimizer = optax.adam(0.3)

    @jax.jit
    def step(logits, state):
        def loss(logits):
            up = bilinear.resize(logits, (side, side))
            return pixels.mean(segmentation.pixel_cross_entropy(up, targets), None)

        updates, state = optimizer.update(jax.grad(loss)(logits), state)
        return optax.apply_updates(logits, updates), state

    state = optimizer.init(logits)
    for _ in range(1000):
        logits, state = step(logits, state)
    classes = np.asarray(jnp.argmax(bilinear.resize(logits, (side, side)), axis=-1))
    return lambda images: classes[: len(images)]


def segment(name: str, side: int, num_steps: int, spec: siamese.NetworkSpec) -> None:
    """Prints the mIoU of the network, and that of free logits."""
    dense_set = squares(sources.load(name, "train", sets.MASKS, key=""), side)
    whole = transforms.whole((side, side))
    program = steps.Program(spec._replace(dilation=2), FCN(classes=len(dense_set.classes)))
    crops = transforms.Segmentation(crop=side, scale_range=(1.0, 1.0), flip=0.0)
    scores = {
        "free logits": measure.segmentation_scores(
            free_logits(dense_set, side), dense_set, whole, READING
        ),
        "network": measure.segmentation_scores(
            fit(dense_set, program, crops, num_steps, 0.05), dense_set, whole, READING
        ),
    }
    for row, result in scores.items():
        print(f"{row}: mIoU {result.values['mIoU'].value:.1f} % at {side} px", flush=True)


def filled(depths: np.ndarray) -> np.ndarray:
    """Depths `[h, w]` whose holes, of 0, have that of the nearest pixel."""
    _, (rows, columns) = ndimage.distance_transform_edt(depths == 0, return_indices=True)
    return depths[rows, columns]


def measure_depth(name: str, num_steps: int, spec: siamese.NetworkSpec) -> None:
    """Prints the rms of the network, and that of a perfect prediction."""
    whole_set = sources.load(name, "train", sets.DEPTH, key="")
    dense_set = sets.select(whole_set, np.arange(8))
    program = steps.Program(spec, UpProjection((128, 64, 32, 16), 256))
    frames = transforms.Depth((96, 128), (91, 122), flip=0.0)
    frames = frames._replace(target=steps.output_size(program, frames.crop))
    predict = fit(dense_set, program, frames, num_steps, 0.05)
    seen = transforms.depth(frames)
    targets = [seen(dense_set.read(i), np.ones(transforms.DRAWS)).target for i in range(8)]
    perfect = np.stack([filled(target) for target in targets])
    for eval_crop in ("crop", "stretch"):
        for row, outputs in {
            "a perfect prediction": lambda images: perfect[: len(images)],
            "network": predict,
        }.items():
            result = measure.depth_scores(
                outputs, dense_set, transforms.depth_whole(frames), READING, eval_crop
            )
            print(f"{row}: rms {result.values['rms'].value:.3f} m with eval_crop={eval_crop}")


def main() -> None:
    """Runs what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", help="a set with masks, as in config.dataset")
    parser.add_argument("--depth", help="a set with depth, as in config.dataset")
    parser.add_argument("--side", type=int, default=129, help="of the squares, in pixels")
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()
    spec = siamese.NetworkSpec(depth="18", width=0.5)
    if options.masks:
        segment(options.masks, options.side, options.steps, spec)
    if options.depth:
        measure_depth(options.depth, options.steps, spec)


if __name__ == "__main__":
    main()
