"""Small sets of random images under the names of BYOL Table 10's, as TFDS prepares the real ones.

Name, configuration, version, features and splits are those of TFDS's own builders; only the
examples are made up. `tfds.testing.mock_data` reads such a folder too, but it draws labels at
random and the same examples for all splits, of which App. E.1 could cut nothing.
"""

import io
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from byol_jax.data import table10, tfds_sets

# Training images of each class: as few as leave every class one or two after the cut. The last
# 10,009 images of ImageNet leave 1,991 of 12,000.
TRAIN_PER_CLASS = {
    "imagenet": 12,
    "food101": 6,
    "cifar10": 6,
    "cifar100": 6,
    "sun397": 12,
    "cars": 4,
    "voc2007": 2,
    "voc2012": 2,
    "dtd": 2,
    "pets": 22,
    "caltech101": 7,
    "places365": 2,
    "flowers": 2,
}
# Of any other split that has labels, one of each class; of a test split that has none:
UNLABELLED = 5
_HAVE_NO_TEST_LABELS = ("imagenet", "places365", "voc2012")


def write(key: str, root: pathlib.Path) -> None:
    """Prepares the set of a row of Table 10 in `root`, which is `config.data_dir`."""
    tfds_sets.import_tensorflow()
    import tensorflow_datasets as tfds

    name = table10.by_name(key).tfds
    builder_class = tfds.builder_cls(name.partition("/")[0])
    splits_of = builder_class._split_generators

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Iterator[Any]]:
        with mock.patch.object(builder_class, "_generate_examples"):
            theirs = splits_of(self, _archives(root / "archives"))
        names = theirs if isinstance(theirs, dict) else [split.name for split in theirs]
        return {str(split): _examples(key, str(split), self.info.features) for split in names}

    with mock.patch.object(builder_class, "_split_generators", split_generators):
        builder = tfds.builder(name, data_dir=str(root))
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


def _archives(root: pathlib.Path) -> mock.MagicMock:
    """What downloads: it gives a folder with all that builders read to know their splits."""
    names = {
        "cifar-10-batches-bin/batches.meta.txt": 10,
        "cifar-100-binary/coarse_label_names.txt": 20,
        "cifar-100-binary/fine_label_names.txt": 100,
        "Training_01.txt": 0,
        "Testing_01.txt": 0,
    }
    for file, count in names.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("\n".join(f"class{i}" for i in range(count)))
    for split in ("train", "val", "test"):
        with tarfile.open(root / f"ILSVRC2012_img_{split}.tar", "w"):
            pass  # an archive of nothing
    downloads = mock.MagicMock(manual_dir=str(root))
    downloads.download_and_extract.side_effect = lambda urls: (
        dict.fromkeys(urls, str(root)) if isinstance(urls, dict) else root
    )
    return downloads


def _examples(key: str, split: str, features: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    unlabelled = split == "test" and key in _HAVE_NO_TEST_LABELS
    classes = features["label" if "label" in features else "labels"]
    classes = getattr(classes, "feature", classes).num_classes
    per_class = TRAIN_PER_CLASS[key] if split == "train" else 1
    rng = np.random.default_rng(len(split))
    for i in range(UNLABELLED if unlabelled else per_class * classes):
        pixels = _pixels(rng, features["image"].shape)
        example = {
            name: _value(feature, f"{split}{i}", pixels) for name, feature in features.items()
        }
        if "label" in features:
            example["label"] = -1 if unlabelled else i % classes
        else:
            # Several classes an image: its own, the next, and a third of which there are but
            # difficult examples.
            shown = [] if unlabelled else [(i + j) % classes for j in range(3)]
            example["labels"], example["labels_no_difficult"] = shown, shown[:2]
        yield f"{split}{i}", example


def _pixels(rng: np.random.Generator, shape: tuple[int | None, ...]) -> np.ndarray:
    """Random colours: 12 to 20 pixels a side, or as many as the set prescribes."""
    height, width = (side or int(rng.integers(12, 21)) for side in shape[:2])
    if height <= 32:
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def _value(feature: Any, name: str, pixels: np.ndarray) -> Any:
    """Something that the feature takes; the image for an image, the name for a text."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        if feature.shape[-1] == 1:
            return pixels[..., :1]
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, feature._encoding_format or "jpeg")
        return io.BytesIO(file.getvalue())
    if isinstance(feature, tfds.features.Text):
        return name
    if isinstance(feature, tfds.features.BBoxFeature):
        return tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
    return [] if isinstance(feature, tfds.features.Sequence) else 0
