"""Single stored images: bytes, pixels, or the reason why an image cannot be read."""

import concurrent.futures
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from byol_jax import keys
from byol_jax.data import crops, tensorflow, tolerance
from byol_jax.data.images import (
    ImageSet,
    Label,
    Prepared,
    Records,
    Unreadable,
    all_labels,
    no_label,
    prepare,
)
from byol_jax.errors import GuardError, UserError, require

# Most images that are checked before a run; a larger set is judged by a sample.
_SAMPLE = 2000
# Unreadable images that are read again to see what is wrong with them.
_ASKED = 100
# Threads that read files.
READERS = 16
# See `tolerance`.
tolerated, limit_of = tolerance.tolerated, tolerance.limit_of
# End marks of a complete JPEG or PNG, which are within this many bytes of its end as a rule.
_ENDS, _END_BYTES = (b"\xff\xd9", b"IEND"), 64


def check_readable(image_set: ImageSet) -> None:
    """Checks the files of a set, or a sample of 2,000, before a run.

    Reads headers, and decodes images that have no end mark.

    Raises:
      UserError: see `check_sample`.
    """
    records = image_set.images
    if not isinstance(records, Records):
        return

    def reason(i: int) -> str:
        example = read_example(image_set, i, exif=False)
        image = example.image
        if example.reason or any(end in image.data[-_END_BYTES:] for end in _ENDS):
            return example.reason
        return error_of(crops.decode, image.data, [0, 0, image.height, image.width])

    check_sample(image_set.title, records.size, reason, records.describe)


def check_sample(
    title: str, size: int, reason_of: Callable[[int], str], describe: Callable[[int], str]
) -> None:
    """Looks at all images of a set, or at a sample of 2,000.

    Args:
      title: what messages call the set.
      size: number of its images.
      reason_of: function from a position to the reason why the image cannot be read, empty if it
        can; called from several threads.
      describe: function from a position to the image's name in messages.

    Raises:
      UserError: more images than `tolerated` cannot be read, or, for a sample, significantly more
        than 1 %.
    """
    count = min(size, _SAMPLE)
    sample, limit = np.arange(count), tolerated(count)
    if count < size:
        sample = np.sort(keys.permutation(size, "check_readable", 0)[:count])
        limit = tolerance.TOLERATED_SHARE * count
        limit += 3 * (limit * (1 - tolerance.TOLERATED_SHARE)) ** 0.5  # three standard deviations
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        reasons = dict(zip(sample.tolist(), pool.map(reason_of, sample.tolist()), strict=True))
    bad = {i: why for i, why in reasons.items() if why}
    if len(bad) > limit:
        raise refusal(title, describe, bad, count)


def decoded(image_set: ImageSet, exif: bool = False) -> ImageSet:
    """The same set with its images in memory, uint8 `[N, H, W, 3]`, and their labels.

    Raises:
      UserError: an image cannot be read, or images differ in size.
    """
    records = image_set.images
    if not isinstance(records, Records):
        return image_set
    shape: tuple[int, ...] | None = None
    pixels = np.empty((0, 0, 0, 3), np.uint8)
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        pictures = pool.map(functools.partial(picture, image_set, exif=exif), range(records.size))
        for i, image in enumerate(pictures):
            if image is None:
                raise UserError(
                    f"config.data.resident=True: {records.describe(i)} cannot be read: repair or "
                    "remove it"
                )
            if shape is None:
                shape = image.shape
                pixels = np.empty((records.size, *shape), np.uint8)
            require(
                image.shape == shape,
                f"config.data.resident=True: {records.describe(i)} has {image.shape[0]} x "
                f"{image.shape[1]} pixels, {records.describe(0)} {shape[0]} x {shape[1]}: images "
                "that are kept in memory must have one size; resize them",
            )
            pixels[i] = image
    return image_set._replace(images=pixels, labels=all_labels(image_set))


def picture(image_set: ImageSet, i: int, exif: bool = False) -> np.ndarray | None:
    """One image as it is stored, uint8 `[H, W, 3]`; None if it cannot be read."""
    if not isinstance(image_set.images, Records):
        return image_set.images[i]
    decoded_pixels: list[np.ndarray] = []
    example = read_example(image_set, i, exif)

    def decode() -> None:
        decoded_pixels.append(pixels_of(example.image))

    error_of(decode)
    return decoded_pixels[0] if decoded_pixels else None


def pixels_of(image: Prepared) -> np.ndarray:
    """The whole image, upright, uint8 `[H, W, 3]`.

    Raises:
      One of `decoding_errors`: it is damaged.
    """
    pixels = crops.decode(image.data, [0, 0, image.height, image.width])
    return crops.orient(pixels.numpy(), image.orientation)


class Example(NamedTuple):
    """A stored image and its label, or the reason why it cannot be read."""

    image: Prepared
    label: Label
    reason: str = ""


def read_example(image_set: ImageSet, i: int, exif: bool) -> Example:
    """The stored image at position `i`, or the reason why it cannot be read."""
    records = image_set.images
    assert isinstance(records, Records)
    try:
        stored = records.read(i)
        return Example(prepare(stored.data, exif, image_set.largest, image_set.depth), stored.label)
    except (OSError, Unreadable) as error:
        # Empty bytes fail in TensorFlow's decoder as a damaged image does.
        reason = str(error) or type(error).__name__
        return Example(Prepared(b"", 1, 1, 1), no_label(image_set), reason)


def decoding_errors() -> tuple[type[Exception], ...]:
    """Types of errors that TensorFlow's decoders raise."""
    errors = tensorflow.import_tensorflow().errors
    return errors.InvalidArgumentError, errors.DataLossError


def error_of(function: Callable[..., Any], *arguments: Any) -> str:
    """The message of the decoding error that a call raises; empty if it succeeds."""
    try:
        function(*arguments)
    except decoding_errors() as error:
        words = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", str(error)).strip().splitlines()
        return words[0] if words else type(error).__name__
    return ""


def ended(image_set: ImageSet, bad: dict[int, str]) -> UserError | GuardError:
    """The error that ends a run with too many unreadable images `bad`, reasons by position.

    Files that are away now are no fault of the user's, if others of the set were read before.
    """
    records = image_set.images
    assert isinstance(records, Records)
    some, away = list(bad)[:_ASKED], 0
    was_read = records.seen is None or records.seen.is_set()
    for i in some if was_read else ():
        try:
            records.read(i)
        except OSError as error:
            away += error.errno is not None
    if 2 * away <= len(some):
        return refusal(image_set.title, records.describe, bad, image_set.size)
    return GuardError(
        f"{image_set.title}: {len(bad)} of {image_set.size} images cannot be read any more, such "
        f"as {records.describe(some[-1])} ({bad[some[-1]]}): bring them back, or their disk, and "
        "run the same command again"
    )


def refusal(
    title: str, describe: Callable[[int], str], bad: dict[int, str], count: int
) -> UserError:
    """The error for too many unreadable images.

    Args:
      title: what messages call the set.
      describe: function from a position to the image's name in messages.
      bad: why images cannot be read, by position.
      count: number of images that were looked at.
    """
    first = "; ".join(f"{describe(i)} ({why})" for i, why in list(bad.items())[:3])
    return UserError(
        f"{title}: {len(bad)} of {count} images cannot be read, more than "
        f"{limit_of(count)}: {first}{', ...' if len(bad) > 3 else ''}; "
        "repair or remove them"
    )
