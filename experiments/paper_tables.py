"""The numbers of BYOL Tables 1, 2, 3, 7, 8, 9 and 13 and SimCLR Tables 6, 7, 8 and B.2 to B.5.

Each function maps the cells of a printed row to the page that makes its numbers and to the network
that the page needs, for paper.py. Rows of other people's methods and of the other paper have a
reason instead. The printed tables are in papers/byol.txt and papers/simclr.txt.
"""

import itertools
from collections.abc import Iterator

from experiments import papers
from experiments.papers.cells import (
    ANOTHER_METHOD,
    TOP1_TOP5,
    TRANSFER_SETS,
    Cell,
    Network,
    Number,
    build,
    encoder,
    few_labels,
    linear,
    network,
    numbers,
    of_set,
    transfer,
)

_BYOL = papers.read("byol")
_SIMCLR = papers.read("simclr")


def _of_simclr(table: str) -> str:
    """The reason why a number that BYOL's paper copies from SimCLR's is not run."""
    return f"of SimCLR's paper: table={table}"


# ---------------------------------------------------------------- BYOL


def _table_1() -> Iterator[Cell]:
    rows = [(method, "ResNet-50", *cells) for method, *cells in _BYOL["Table 1a"]]
    rows += [(method, name, *cells) for method, name, _, *cells in _BYOL["Table 1b"]]
    for method, architecture, *cells in rows:
        reason = _of_simclr("simclr-6") if method == "SimCLR [8]" else ANOTHER_METHOD
        trained = "byol" if method == "BYOL (ours)" else ""
        yield linear("1", method, architecture, cells, trained, reason=reason)


def _table_2() -> Iterator[Cell]:
    rows = [(method, "ResNet-50", *cells) for method, *cells in _BYOL["Table 2a"]]
    rows += [(method, name, *cells) for method, name, _, *cells in _BYOL["Table 2b"]]
    for method, architecture, top1_1, top1_10, top5_1, top5_10 in rows:
        shares = {
            "1%": {"Top-1": top1_1, "Top-5": top5_1},
            "10%": {"Top-1": top1_10, "Top-5": top5_10},
        }
        reason, checkpoint = ANOTHER_METHOD, None
        if method == "BYOL (ours)":
            reason, checkpoint = "", network("byol", architecture)
        elif method.startswith("SimCLR"):
            reason = _of_simclr("simclr-7 and table=simclr-B.4")
        yield from few_labels("2", f"{method} {architecture}", shares, checkpoint, reason=reason)


def _table_3() -> Iterator[Cell]:
    yield from transfer("3", "linear", _BYOL["Table 3, linear"], "ResNet-50")
    yield from transfer("3", "finetune", _BYOL["Table 3, fine-tuned"], "ResNet-50")


def _table_7() -> Iterator[Cell]:
    for name, augmentations, logits, *cells in papers.filled(_BYOL["Table 7"]):
        architecture = name.replace(" (1x)", "")
        options = ["augment=pretrain"] * bool(augmentations)
        options += ["logits=regularized"] * bool(logits)
        words = ["pre-train augmentations"] * bool(augmentations)
        words += ["logits regularization"] * bool(logits)
        cell = linear("7", "BYOL (ours)", architecture, cells, "byol", ",".join(options))
        yield cell._replace(row=cell.row + "".join(f" + {word}" for word in words))


def _table_8() -> Iterator[Cell]:
    for method, top1, top5, semi, semi_top1, semi_top5 in _BYOL["Table 8"]:
        reason = _of_simclr("simclr-B.3") if method == "Supervised[8]" else ANOTHER_METHOD
        printed = numbers(TOP1_TOP5, [top1, top5])
        yield Cell("8", method, "100%", "supervised", printed, reason=reason)
        shares = {"100%": {"Top-1": semi_top1, "Top-5": semi_top5}}
        checkpoint = Network("byol" if semi == "BYOL" else "simclr")
        reason = _of_simclr("simclr-B.2") if semi == "SimCLR [8]" else ""
        yield from few_labels("8", semi, shares, checkpoint, reason=reason)


def _table_9() -> Iterator[Cell]:
    for name, multiplier, _, *cells in _BYOL["Table 9"]:
        architecture = name if multiplier == "1x" else f"{name} ({multiplier})"
        yield linear("9", "BYOL", architecture, cells[:2], "byol")
        depth, width = encoder(architecture)
        yield Cell(
            *("9", f"Supervised (ours) {architecture}", "ImageNet", "supervised"),
            numbers(TOP1_TOP5, cells[2:4]),
            page="supervised",
            options=f"depth={depth},width={width:g}",
        )
        if cells[4] != "-":
            reason = _of_simclr("simclr-B.3")
            if architecture == "ResNet-50 (2x)":
                reason += " has the two others"
            row, printed = f"Supervised [8] {architecture}", numbers({"Top-1": "top1"}, cells[4:])
            yield Cell("9", row, "ImageNet", "supervised", printed, reason=reason)


# Places365 has no validation split (Table 10), and a rate must not be chosen on test images.
_PLACES = {"learning_rates": (0.2,), "valid_split": ""}
_PLACES_NOTE = "rate 0.2: there is no validation split to choose one of App. D.1's five on"


def _table_13() -> Iterator[Cell]:
    sets = {"Places365": "places365", "ImageNet": "imagenet", **TRANSFER_SETS}
    del sets["VOC2007"]
    for row, *cells in _BYOL["Table 13"]:
        method, _, data = row.partition("-")
        checkpoint = Network(method.lower(), data={"IN": "imagenet", "PL": "places365"}[data])
        for (column, benchmark), printed in zip(sets.items(), cells, strict=True):
            cell = Cell(
                *("13", row, column, "linear", of_set(column, printed)),
                page="linear" if column in ("Places365", "ImageNet") else "transfer",
                benchmark=benchmark,
                network=checkpoint,
            )
            if column == "Places365":
                cell = cell._replace(changes=_PLACES, note=_PLACES_NOTE)
            yield cell


# ---------------------------------------------------------------- SimCLR

_OURS = "SimCLR (ours)"
_PROTOCOL = "protocol=simclr"


def _simclr_6() -> Iterator[Cell]:
    for method, architecture, _, *cells in _SIMCLR["Table 6"]:
        trained, options = ("simclr", _PROTOCOL) if method == _OURS else ("", "")
        yield linear("simclr-6", method, architecture, cells, trained, options)


def _simclr_few_labels(number: str, column: str) -> Iterator[Cell]:
    """Tables 7 and B.4, which have one column per share of the labels."""
    for method, architecture, one, ten in _SIMCLR[f"Table {number}"]:
        trained = method == _OURS
        yield from few_labels(
            f"simclr-{number}",
            f"{method} {architecture}",
            {"1%": {column: one}, "10%": {column: ten}},
            network("simclr", architecture) if trained else None,
            f",{_PROTOCOL}",
            "" if trained else ANOTHER_METHOD,
        )


def _simclr_transfer(number: str, architecture: str) -> Iterator[Cell]:
    """Tables 8 and B.5."""
    for protocol, words in (("linear", "linear"), ("finetune", "fine-tuned")):
        rows = _SIMCLR[f"Table {number}, {words}"]
        yield from transfer(f"simclr-{number}", protocol, rows, architecture)


def _simclr_b2() -> Iterator[Cell]:
    for architecture, *cells in _SIMCLR["Table B.2"]:
        shares = {
            share: {"Top-1": cells[2 * i], "Top-5": cells[2 * i + 1]}
            for i, share in enumerate(("1%", "10%", "100%"))
        }
        checkpoint = network("simclr", architecture, "broader augmentations (SimCLR App. B.2)")
        row = f"{_OURS} {architecture}"
        yield from few_labels("simclr-B.2", row, shares, checkpoint, f",{_PROTOCOL}")


def _simclr_b3() -> Iterator[Cell]:
    augment = {"crop": "crop", "color": "color", "color and blur": "simclr"}
    for architecture, epochs, *cells in papers.filled(_SIMCLR["Table B.3"]):
        depth, width = encoder(architecture)
        for (column, kind), printed in zip(augment.items(), cells, strict=True):
            number = Number(column, float(printed))
            if (architecture, epochs, column) == ("ResNet-50", "1000", "color and blur"):
                number = number._replace(elsewhere="76.3 in SimCLR App. B.8.1")
            yield Cell(
                *("simclr-B.3", f"Supervised {architecture} {epochs} epochs", column),
                *("supervised", (number,)),
                page="supervised",
                options=f"depth={depth},width={width:g},epochs={epochs},augment={kind}",
            )


# The cells of each table, in its order.
TABLES = build(
    itertools.chain(
        *(_table_1(), _table_2(), _table_3(), _table_7(), _table_8(), _table_9(), _table_13()),
        *(_simclr_6(), _simclr_few_labels("7", "Top-5"), _simclr_transfer("8", "ResNet-50 (4x)")),
        *(_simclr_b2(), _simclr_b3(), _simclr_few_labels("B.4", "Top-1")),
        _simclr_transfer("B.5", "ResNet-50"),
    )
)
