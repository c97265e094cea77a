"""The job `compare`: whether two results on the same images differ by more than chance.

SimCLR Tables 8 and B.5 mark what is not significantly worse than the best (App. B.8.1).
"""

import pathlib
from typing import Any

import ml_collections
import numpy as np

from byol_jax.errors import require
from byol_jax.results import ranked, scores, tables
from byol_jax.results.records import Record, publish
from byol_jax.runtime import metrics, paths, processes

# Up to this p-value SimCLR Table 8 counts a difference as significant.
_SIGNIFICANT = 0.05
_TEST = "exact binomial test of the examples that one alone gets right (McNemar), two-sided"


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """The job `compare`: reads two files of predictions, prints the test, writes json.

    Raises:
      UserError: a file is missing, or both are not of the same images with the same labels.
    """
    files = [_path(config, key) for key in ("a", "b")]
    one, other = (_sorted(ranked.read(file)) for file in files)
    _check_images(one, other)
    result = scores.compare(*(part.ranked[:, 0] == part.labels for part in (one, other)))
    record = _record(files, one, other, result)
    if processes.is_first_process():
        publish(workdir, [record], "\n".join(_lines(files, record, result)))
        metrics.write_config(workdir, config.to_dict())


def _path(config: ml_collections.ConfigDict, key: str) -> pathlib.Path:
    """The file of predictions that a key names, or the one in the workdir that it names."""
    require(config[key], f"config.{key} is needed: a workdir with {ranked.FILE}, or such a file")
    path = paths.outside(config[key], f"config.{key}")
    return path / ranked.FILE if path.is_dir() else path


def _sorted(part: ranked.Ranked) -> ranked.Ranked:
    order = np.argsort(part.ids, kind="stable")
    return part._replace(ids=part.ids[order], labels=part.labels[order], ranked=part.ranked[order])


def _check_images(one: ranked.Ranked, other: ranked.Ranked) -> None:
    """Refuses predictions for different images or labels."""
    splits = [part.about.get("split") for part in (one, other)]
    require(
        splits[0] == splits[1],
        f"config.a and config.b must be of the same images: they are of the splits {splits[0]} and "
        f"{splits[1]}",
    )
    require(
        np.array_equal(one.ids, other.ids),
        f"config.a and config.b must be of the same images: {len(one.ids)} and {len(other.ids)} "
        f"images, {len(np.intersect1d(one.ids, other.ids))} of them the same",
    )
    different = int(np.sum(one.labels != other.labels))
    require(
        not different,
        f"config.a and config.b must be of the same images: {different} of {len(one.ids)} labels "
        "differ",
    )


def _record(
    files: list[pathlib.Path], one: ranked.Ranked, other: ranked.Ranked, result: scores.Comparison
) -> Record:
    """The difference in accuracy, a minus b, with both results in its settings."""
    count = len(one.ids)
    # A set may have been moved between two evaluations: its ids and labels are what is compared.
    datasets = dict.fromkeys(part.about["dataset"] for part in (one, other))
    sides: dict[str, Any] = {}
    for i, (name, part) in enumerate((("a", one), ("b", other))):
        sides[name] = {
            "predictions": str(files[i]),
            **part.about,
            "top1": result.top1[i],
            "standard_error": scores.binomial_error(result.top1[i], count),
            "only_right": result.only[i],
        }
    return Record(
        metric="top1_difference",
        value=result.top1[0] - result.top1[1],
        unit="percent",
        protocol=f"comparison of {one.about['protocol']} with {other.about['protocol']}",
        network=one.about["network"],
        dataset=" and ".join(datasets),
        split=one.about["split"],
        n_examples=count,
        **{key: one.about[key] for key in ("checkpoint_step", "seed")},
        settings={
            "compared": f"{files[0]} with {files[1]}",
            "test": _TEST,
            "p_value": result.p_value,
            "significant": result.p_value <= _SIGNIFICANT,
            "standard_error": result.standard_error,
            "standard_error_of": f"{count} pairs of predictions",
            **sides,
            "reference": "SimCLR App. B.8.1, Tables 8 and B.5",
        },
    )


def _lines(files: list[pathlib.Path], record: Record, result: scores.Comparison) -> list[str]:
    """Both accuracies, what only one gets right, and the p-value."""
    rows = [["", "top1 (%)", "only it is right", "predictions"]]
    for i, name in enumerate(("a", "b")):
        side = record.settings[name]
        accuracy = f"{side['top1']:.1f} +- {side['standard_error']:.1f}"
        rows.append([name, accuracy, str(side["only_right"]), str(files[i])])
    difference = tables.signed(record.value)
    words = "significant" if record.settings["significant"] else "not significant"
    return [
        f"{record.dataset}, {record.split} split, {record.n_examples} examples",
        *tables.aligned(rows, left=(0, 3)),
        f"a - b: {difference} +- {result.standard_error:.1f} points, p = {result.p_value:.3g} "
        f"({words} at p <= {_SIGNIFICANT:g}; exact McNemar test)",
    ]
