"""Peak memory of kNN beside the features that it compares.

`python -m tests.faults.memory` takes 200,000 features of 2,048 numbers.
"""

import argparse
import pathlib

import numpy as np

from byol_jax.evals.probes import knn

_STATUS, _PEAK = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def _kibibytes(name: str) -> int:
    """A line of /proc/self/status, such as VmRSS or VmHWM (the peak)."""
    (line,) = (x for x in _STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1])


def beside(count: int, size: int, tests: int, classes: int) -> tuple[int, int]:
    """Bytes of `count` features of `size` numbers, and bytes that kNN takes beside them at most."""
    draw = np.random.default_rng(0)

    def rows(number: int) -> np.ndarray:
        values = np.empty((number, size), np.float32)
        for start in range(0, number, 4096):
            part = values[start : start + 4096]
            part[:] = draw.standard_normal(part.shape, np.float32)
        return values

    features, scored = rows(count), rows(tests)
    labels = draw.integers(0, classes, count)
    # Libraries and compilers are loaded by a first call.
    knn.knn_predict(features[:10], labels[:10], scored[:3], num_classes=classes, k=2)
    before = _kibibytes("VmRSS")
    _PEAK.write_text("5")  # the peak so far is forgotten
    knn.knn_predict(features, labels, scored, num_classes=classes, k=200)
    return features.nbytes, (_kibibytes("VmHWM") - before) * 1024


def main() -> None:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=2_048)
    options = parser.parse_args()
    features, extra = beside(options.count, options.size, tests=512, classes=1000)
    gibibytes, ratio = extra / 2**30, 1 + extra / features
    print(
        f"{options.count} x {options.size} features: {features / 2**30:.2f} GiB; kNN takes at most "
        f"{gibibytes:.2f} GiB beside them, together {ratio:.2f} times the features"
    )


if __name__ == "__main__":
    main()
