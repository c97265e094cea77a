"""The numbers of the papers' evaluation tables, and of the lecture's.

BYOL Tables 1 to 4, 7 to 9 and 11 to 13, SimCLR Tables 1 (supervised), 6, 7, 8 and B.2 to B.5, and
the numbers that stand in the text alone. Each function maps the cells of a printed row to the page
that makes its numbers and to the network that the page needs, for paper.py. Rows of other people's
methods and of the other paper, and evaluations that are not here yet, have a reason instead. The
printed tables are in papers/byol.txt, papers/simclr.txt and papers/lecture.txt.
"""

import itertools
from collections.abc import Iterator

from experiments import papers
from experiments.papers.cells import (
    ANOTHER_METHOD,
    NOT_YET,
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
_LECTURE = papers.read("lecture")


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


_DEPTH = {
    "pct. < 1.25": "pct1.25",
    "pct. < 1.25^2": "pct1.25^2",
    "pct. < 1.25^3": "pct1.25^3",
    "rms": "rms",
    "rel": "rel",
}
# The networks of Tables 4, 11 and 12 that are trained here. BYOL's paper takes the numbers of [9]
# from MoCo's paper, whose first version that is, and those of [83] from FCRN's; neither network
# that was trained on labels is described.
_ON_LABELS = Network("supervised", variant="usual", epochs=90)
_DENSE_NETWORKS = {
    "BYOL (ours)": Network("byol"),
    "SimCLR (repro)": Network("simclr", variant="repro"),
    "MoCo [9]": Network("moco", variant="v1", epochs=200),
    "Supervised-IN [9]": _ON_LABELS,
    "Supervised-IN [83]": _ON_LABELS,
}
# docs/deviations.md, dense transfer.
_MASKS_NOTE = (
    "silent in the paper and chosen here: held-out images, start of the head, upsampling "
    "(docs/deviations.md, 80, 81, 89)"
)
_DEPTH_NOTE = (
    "silent in the paper and chosen here: training frames, layers around the up-projections, "
    "where depth is compared (docs/deviations.md, 84, 88)"
)
# Whose detection would be run if there were a page: rows of BYOL's paper and of the lecture.
_DETECTED = (
    *_DENSE_NETWORKS,
    *("BYOL (repro", "SimCLR (repro", "MoCo v2", "SimSiam", "ImageNet supervised", "scratch"),
)


def _detection(cell: Cell) -> Cell:
    """A cell that no page makes."""
    is_ours = cell.row.startswith(_DETECTED)
    return cell._replace(reason=NOT_YET if is_ours else ANOTHER_METHOD)


def _segmentation(cell: Cell) -> Cell:
    """A cell of segmentation.py, if its network is trained here."""
    if cell.row not in _DENSE_NETWORKS:
        return cell._replace(reason=ANOTHER_METHOD)
    cell = cell._replace(page="segmentation", network=_DENSE_NETWORKS[cell.row], note=_MASKS_NOTE)
    if "[9]" in cell.row:
        note = f"the number is of MoCo's paper, by its protocol; {cell.note}"
        return cell._replace(options="preset=moco", note=note)
    return cell


def _boxes_and_masks(table: str) -> Iterator[Cell]:
    """Tables 4a and 11."""
    for method, boxes, masks in _BYOL[f"Table {table}"]:
        if boxed := numbers({"AP50": "ap50"}, [boxes]):
            cell = Cell(table, method, "AP50", "detection", boxed, benchmark="voc2007")
            yield _detection(cell)
        if segmented := numbers({"mIoU": "mIoU"}, [masks]):
            cell = Cell(table, method, "mIoU", "segmentation", segmented, benchmark="voc2012")
            yield _segmentation(cell)


def _depth(table: str) -> Iterator[Cell]:
    """Tables 4b and 12."""
    for method, *cells in _BYOL[f"Table {table}"]:
        cell = Cell(table, method, "NYU v2", "depth", numbers(_DEPTH, cells), benchmark="nyu")
        if method not in _DENSE_NETWORKS:
            yield cell._replace(reason=ANOTHER_METHOD)
            continue
        note = _DEPTH_NOTE
        if "[83]" in method:
            note = f"the numbers are of FCRN's paper, by its training, here App. E.6's; {note}"
        yield cell._replace(page="depth", network=_DENSE_NETWORKS[method], note=note)


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
        checkpoint = Network("byol") if semi == "BYOL" else Network("simclr", variant="repro")
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
            reason = _of_simclr("simclr-text" if multiplier == "2x" else "simclr-B.3")
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
        checkpoint = Network(
            method.lower(),
            data={"IN": "imagenet", "PL": "places365"}[data],
            variant="repro" if method == "SimCLR" else "",
        )
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


def _byol_text() -> Iterator[Cell]:
    """Section 3: the network before training."""
    for row, architecture, *cells in _BYOL["Text"]:
        depth, width = encoder(architecture)
        yield Cell(
            *("text", f"{row} {architecture}", "ImageNet", "linear"),
            numbers({"Top-1": "top1"}, cells),
            page="linear",
            changes={"network": "random", "image_size": 224, "eval_crop": "paper"},
            network=Network("random", depth, width),
            note="BatchNorm's averages are those of 10 batches (docs/deviations.md, 61)",
        )


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
        checkpoint = network("simclr", architecture, "broader")
        row = f"{_OURS} {architecture}"
        yield from few_labels("simclr-B.2", row, shares, checkpoint, f",{_PROTOCOL}")


# docs/deviations.md, 56.
_BASELINE_NOTE = "rate, warm-up and decay are those of BYOL App. D.2: SimCLR's paper gives none"


def _supervised(
    table: str, row: str, architecture: str, column: str, printed: tuple[Number, ...], options: str
) -> Cell:
    """A network trained on labels from scratch, by supervised.py."""
    depth, width = encoder(architecture)
    return Cell(
        *(table, row, column, "supervised", printed),
        page="supervised",
        options=f"depth={depth},width={width:g},{options}",
        note=_BASELINE_NOTE,
    )


def _simclr_1() -> Iterator[Cell]:
    """Table 1; "Supervised models are trained for 90 epochs" (footnote 5)."""
    (_, *columns), *rows = _SIMCLR["Table 1"]
    for method, *cells in rows:
        for column, cell in zip(columns, cells, strict=True):
            printed = numbers({column: "top1"}, [cell])
            if method == "SimCLR":
                reason = (
                    "pre-trained for each column: --config=experiments/ablate.py:table=simclr-1"
                )
                yield Cell("simclr-1", method, column, "linear", printed, reason=reason)
                continue
            strength, _, blur = column.partition(" ")
            options = "epochs=90,augment=" + ("simclr" if blur else "color")
            if column == "AutoAug":
                options = "epochs=90,augment=autoaugment"
            elif strength != "1":
                above, _, below = strength.partition("/")
                options += f",strength={int(above) / int(below):g}"
            yield _supervised("simclr-1", method, "ResNet-50", column, printed, options)


def _simclr_b3() -> Iterator[Cell]:
    augment = {"crop": "crop", "color": "color", "color and blur": "simclr"}
    for architecture, epochs, *cells in papers.filled(_SIMCLR["Table B.3"]):
        for (column, kind), printed in zip(augment.items(), cells, strict=True):
            number = Number(column, float(printed))
            if (architecture, epochs, column) == ("ResNet-50", "1000", "color and blur"):
                number = number._replace(elsewhere="76.3 in SimCLR App. B.8.1")
            row = f"Supervised {architecture} {epochs} epochs"
            options = f"epochs={epochs},augment={kind}"
            yield _supervised("simclr-B.3", row, architecture, column, (number,), options)


def _simclr_text() -> Iterator[Cell]:
    """App. B.2, beside its table."""
    for what, architecture, *cells in _SIMCLR["Text"]:
        row = f"{what} {architecture}"
        if what.startswith("Linear"):
            cell = linear("simclr-text", what, architecture, cells, "simclr", _PROTOCOL)
            yield cell._replace(network=network("simclr", architecture, "broader"))
        elif what.startswith("Fine-tuned"):
            shares = {"100%": dict(zip(TOP1_TOP5, cells, strict=True))}
            checkpoint = network("simclr", architecture)
            yield from few_labels("simclr-text", row, shares, checkpoint, f",{_PROTOCOL}")
        else:
            # "the same set of augmentations (i.e. random crop and horizontal flip)"; no length.
            printed = numbers(TOP1_TOP5, cells)
            options = "epochs=90,augment=crop"
            cell = _supervised("simclr-text", row, architecture, "100%", printed, options)
            yield cell._replace(
                note=f"{cell.note}; 90 epochs, as in Table 1: the text has no length"
            )


# ---------------------------------------------------------------- the lecture

_EPOCHS = (100, 200, 400, 800)
_REPRODUCED = (
    "a reproduction by the authors of SimSiam, whose settings the lecture does not give: here the "
    "page's own (docs/deviations.md, 60)"
)
_OWN_CLASSIFIER = (
    "SimSiam's classifier is trained with LARS at batch 4096 and rate 0.1 x batch / 256 for 90 "
    "epochs (its code); here the protocol of BYOL App. D.1"
)


def _lecture_linear() -> Iterator[Cell]:
    """Linear evaluation on ImageNet after 100 to 800 epochs."""
    for method, batch, _, _, *cells in _LECTURE["Linear"]:
        name = method.partition(" ")[0].lower()
        for epochs, value in zip(_EPOCHS, cells, strict=True):
            cell = Cell(
                *("lecture-1", method, f"{epochs} epochs", "linear"),
                numbers({"Top-1": "top1"}, [value]),
            )
            if name in ("byol", "simclr", "moco", "simsiam"):
                # Those of the pages.
                assert batch == ("256" if name in ("moco", "simsiam") else "4096"), method
                note = _OWN_CLASSIFIER if name == "simsiam" else _REPRODUCED
                checkpoint = Network(name, epochs=epochs)
                yield cell._replace(page="linear", network=checkpoint, note=note)
            else:
                yield cell._replace(reason="not here yet: no page trains this method")


# VOC 07, VOC 07+12 and COCO boxes, COCO masks. The last has two printed headings, AP50 and AP75,
# for three columns: read in the order of the others.
_BOXES = ("VOC 07", "VOC 07+12", "COCO", "COCO masks")


def _lecture_detection() -> Iterator[Cell]:
    metrics = {"AP50": "ap50", "AP": "ap", "AP75": "ap75"}
    for method, *cells in _LECTURE["Detection"]:
        for i, column in enumerate(_BOXES):
            cell = Cell(
                *("lecture-detection", method, column, "detection"),
                numbers(metrics, cells[3 * i : 3 * i + 3]),
                benchmark="voc2007" if column.startswith("VOC") else "",
            )
            yield _detection(cell)


# The cells of each table, in its order.
TABLES = build(
    itertools.chain(
        *(_table_1(), _table_2(), _table_3(), _boxes_and_masks("4a"), _depth("4b")),
        *(_table_7(), _table_8(), _table_9(), _boxes_and_masks("11"), _depth("12"), _table_13()),
        *(_byol_text(), _simclr_1(), _simclr_6(), _simclr_few_labels("7", "Top-5")),
        *(_simclr_transfer("8", "ResNet-50 (4x)"), _simclr_b2(), _simclr_b3()),
        *(_simclr_few_labels("B.4", "Top-1"), _simclr_transfer("B.5", "ResNet-50")),
        *(_simclr_text(), _lecture_linear(), _lecture_detection()),
    )
)
