"""docs/reproduce.md: every table of the papers, the command that makes its numbers, and these.

    python -m experiments.papers.reproduce docs/reproduce.md

Without a file it prints the document. Its numbers are read from the printed tables beside this
module and from the docstrings of the pages, its commands from the pages.
"""

import argparse
import importlib
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments import ablation_tables, ablations, paper_tables, papers
from experiments.papers import commands, released
from experiments.papers.cells import Cell, Network
from experiments.papers.commands import Run, training_of
from experiments.papers.rows import Row

_INTRODUCTION = """
    Where each table of BYOL, SimCLR and the lecture is, the command that makes its numbers, and
    these numbers. They are in percent: top-1, or top-1 / top-5, by linear evaluation on ImageNet
    where nothing else is said. Of depth the fourth is the rms in metres and the fifth rel, a ratio:
    of both less is better. **Of all this only what stands in [Measured](#measured) was run
    here.** All printed numbers are in [experiments/papers](../experiments/papers);
    [protocols.md](protocols.md) says how ours are measured, and [deviations.md](deviations.md)
    where a paper contradicts itself or its code.
"""
_TRAININGS = """
    A run on more than 200,000 images does not evaluate itself: that is what the
    [evaluations](#evaluations) are for. `settings` is what the run says of its recipe. The
    docstring of each page has its cost and the source of each choice.
"""
_EVALUATIONS = """
    [paper.py](../experiments/paper.py) runs the rows of a table that belong to the network of a
    checkpoint, and prints the paper's numbers beside ours. Each command names the first network of
    its rows, trained as above; the others take the folder of their own training. Ranges are those
    of all rows. Transfer is measured by the metric of each data set (BYOL Table 10). VOCdevkit
    stands for the folder of yours, with train_aug ([dense.md](dense.md)).
"""
_ABLATIONS = """
    [ablate.py](../experiments/ablate.py) trains the rows of a table one after the other, or some of
    them, as in `table=17,rows=1+4`. A single one is a config of
    [ablations.py](../experiments/ablations.py), as in
    `--config=experiments/ablations.py:table=17,row=4`. With `base=digits` or `base=cifar10` the
    same changes are made in a smaller recipe. BYOL's authors released the networks of some rows:
    `python -m byol_jax.main --config=experiments/paper.py:table=17 --config.released=DIR
    --workdir=runs/released/table-17` evaluates them ([weights.md](weights.md)).
"""
_NOT_YET = """
    No page evaluates detection; the commands print the papers' numbers.
"""
_MEASURED = """
    The online network, the untrained one and raw pixels, by the protocols of
    [protocols.md](protocols.md). The docstring of each page says what `+-` covers. Ablations of
    BYOL on digits are in [ablations.md](ablations.md), all methods on digits and on CIFAR-10 in
    [methods.md](methods.md).
"""

# The docstring of ablations.py has the titles of its tables.
_TITLES: Mapping[str, str] = {
    "1": "linear evaluation",
    "2": "1 % and 10 % of the labels",
    "3": "transfer",
    "4a": "segmentation",
    "4b": "depth",
    "7": "linear evaluation by other protocols",
    "8": "all labels",
    "9": "deeper and wider encoders",
    "11": "segmentation",
    "12": "depth",
    "13": "pre-training on Places365",
    "text": "the untrained network",
    "simclr-1": "strength of the colour distortion",
    "simclr-6": "linear evaluation",
    "simclr-7": "1 % and 10 % of the labels, top-5",
    "simclr-8": "transfer, ResNet-50 (4x)",
    "simclr-B.2": "labels after broader augmentations",
    "simclr-B.3": "supervised for longer",
    "simclr-B.4": "1 % and 10 % of the labels, top-1",
    "simclr-B.5": "transfer, ResNet-50",
    "simclr-text": "App. B.2 and footnote 13",
    "lecture-1": "linear evaluation after 100 to 800 epochs",
    "lecture-detection": "detection",
}
# The one evaluation that is not here; other tables have it beside others.
_DETECTION = "detection"
# What a page needs beside a checkpoint, where TFDS does not have its data set.
_DATA = {"segmentation": ("--config.folders=VOC2012=VOCdevkit",)}
_PROTOCOLS = {"linear": "linear", "finetune": "fine-tuned", "supervised": "from scratch"}
# Headings of the trainings, and their pages in order.
_METHODS = {
    "BYOL": ("byol", "places365", "imagenette", "cifar10"),
    "SimCLR": ("simclr", "ablations"),
    "MoCo": ("moco",),
    "SimSiam": ("simsiam",),
    "DenseCL": ("densecl",),
    "SupCon": ("supcon",),
    "Supervised": ("supervised",),
}
# The pages whose docstrings have measured numbers, and the options that made them.
_MEASURED_PAGES = {
    "digits": "",
    **dict.fromkeys(("simsiam", "moco", "densecl", "supcon"), ":base=digits"),
    "cifar10": "",
}
_COLUMNS = ("two labels per class", "linear", "kNN", "std x sqrt(d)")


class Line(NamedTuple):
    """A line of a table of the document: the key of the paper's table, and the other cells."""

    table: str
    cells: tuple[str, ...]


def _page(name: str) -> str:
    return f"[{name}.py](../experiments/{name}.py)"


def _code(run: Run) -> str:
    return f"`{run.command}`"


def _table(header: str, lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; `header` has its columns between bars."""
    yield f"| {header} |"
    yield "| --- " * (header.count("|") + 1) + "|"
    for cells in lines:
        yield f"| {' | '.join(cells)} |"
    yield ""


# ---------------------------------------------------------------- trainings


def _rank(place: str) -> int:
    """Papers in their order, then READMEs, then what stands nowhere."""
    names = (*papers.NAMES.values(), "none")
    return next((names.index(name) for name in names if place.startswith(name)), len(names) - 2)


def _trainings() -> Iterator[str]:
    lines = [*commands.of_networks(), *commands.of_texts()]
    for method, pages in _METHODS.items():
        yield f"### {method}"
        of_method = [line for line in lines if line.run.page in pages]
        of_method.sort(key=lambda line: (pages.index(line.run.page), _rank(line.place)))
        yield from _table(
            "paper | page | command | paper's number | settings",
            (
                [place, _page(run.page), _code(run), number, commands.recipe(run)]
                for place, run, number in of_method
            ),
        )


# ---------------------------------------------------------------- evaluations


def _range(cells: Iterable[Cell], named: bool = False) -> str:
    """`74.3 / 91.6 to 79.6 / 94.8`, by the first number; `named` adds the columns."""
    ordered = sorted(cells, key=lambda cell: cell.numbers[0].value)
    words = [commands.text(c.numbers) + f" ({c.column})" * named for c in ordered]
    return " to ".join(dict.fromkeys((words[0], words[-1])))


def _summary(cells: Sequence[Cell]) -> str:
    """The numbers of a line: by column, or where there are many columns all of a page together."""
    words = []
    for page in dict.fromkeys(cell.page for cell in cells):
        columns: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.page == page:
                columns.setdefault(cell.column, []).append(cell)
        if len(columns) > 6:
            words.append(_range(itertools.chain(*columns.values()), named=True))
        else:
            names = [""] if [*columns] == ["ImageNet"] else [f"{name}: " for name in columns]
            words += [name + _range(c) for name, c in zip(names, columns.values(), strict=True)]
    return "; ".join(words)


def _evaluation(table: str, name: str, cells: Sequence[Cell], protocol: str) -> Line:
    """The line of the rows of one name; `protocol` where the table has several."""
    options, title = f"table={table}", _TITLES[table]
    if protocol:
        options, title = f"{options},protocol={protocol}", f"{title}, {_PROTOCOLS[protocol]}"
    network = cells[0].network
    if network is None:  # from scratch: such rows are run if they are named
        options += f",row={re.split('[ ,]', name)[0]}"
        run = Run(f"paper.py:{options}", folder=f"from-scratch/table-{table}")
    else:
        training = training_of(network)
        data = _DATA.get(cells[0].page, ())
        flags = (f"--config.checkpoint={training.workdir}", *data)
        run = Run(f"paper.py:{options}", flags, f"{training.name}/table-{table}")
    pages = dict.fromkeys(_page(cell.page) for cell in cells)
    return Line(table, (title, name, ", ".join(pages), _code(run), _summary(cells)))


def _evaluations_of(table: str) -> Iterator[Line]:
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in paper_tables.TABLES[table]:
        if cell.page:
            name = re.sub(r" ResNet.*| \[\d+\]$", "", cell.row)
            groups.setdefault((cell.protocol, name), []).append(cell)
    has_several = len({protocol for protocol, _ in groups}) > 1
    for (protocol, name), cells in groups.items():
        yield _evaluation(table, name, cells, protocol if has_several else "")


def _table_10() -> Line:
    run = Run("paper.py:table=10", folder="table-10")
    return Line("10", ("the data sets that there are", "all", _page("paper"), _code(run), ""))


def _simclr_table_3() -> Line:
    rows = papers.read("simclr")["Table 3"]
    numbers = "; ".join(f"{what}: {h} from h, {g} from g(h)" for what, _, h, g in rows)
    training = training_of(Network("simclr", epochs=100))
    flags = (f"--config.checkpoint={training.workdir}",)
    run = Run("transformations.py", flags, f"{training.name}/table-simclr-3")
    title = "what h and g(h) tell of T"
    return Line("simclr-3", (title, "all", _page(run.page), _code(run), numbers))


def _evaluations() -> Iterator[Line]:
    for table in paper_tables.TABLES:
        yield from _evaluations_of(table)
        if table == "9":
            yield _table_10()
        if table == "simclr-1":
            yield _simclr_table_3()


def _not_here_yet() -> Iterator[Line]:
    for table, cells in paper_tables.TABLES.items():
        if any(cell.protocol == _DETECTION for cell in cells):
            has_others = any(cell.page for cell in cells)
            options = f"table={table}" + f",protocol={_DETECTION}" * has_others
            run = Run(f"paper.py:{options}", folder=f"table-{table}")
            yield Line(table, (_DETECTION, _code(run)))


# ---------------------------------------------------------------- ablations


def _docstring_tables(text: str) -> list[list[list[str]]]:
    """The tables of a docstring, by lines and cells."""
    groups = itertools.groupby(text.splitlines(), key=lambda line: line.startswith("|"))
    return [
        [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]
        for is_table, lines in groups
        if is_table
    ]


def _numbers(rows: Sequence[Row]) -> str:
    """`59.4 to 72.5`."""
    values = [row.numbers["top1"] for row in rows if row.numbers]
    if not values:
        return "no number"
    fails = any(row.note == "fails" for row in rows)
    ends = dict.fromkeys((min(values), max(values)))
    return "fails, or " * fails + " to ".join(map(str, ends))


def _ablations() -> Iterator[Line]:
    names = {page: method for method, pages in _METHODS.items() for page in pages}
    (titles,) = _docstring_tables(ablations.__doc__ or "")
    varied = {table: words.removesuffix(", both methods") for table, words, _ in titles}
    for table, rows in ablation_tables.TABLES.items():
        methods = dict.fromkeys(row.method for row in rows)
        for method in methods:
            options = f"table={table}" + f",method={method}" * (len(methods) > 1)
            run = Run(f"ablate.py:{options}", folder=f"ablation-{table}")
            own = [row for row in rows if row.method == method]
            cells = released.TABLES.get(table, ()) if method == "byol" else ()
            files = [str(number) for number, cell in enumerate(cells, start=1) if cell.released]
            numbers = (str(len(own)), _code(run), _numbers(own), ", ".join(files))
            yield Line(table, (varied[table], names[method], *numbers))


# ---------------------------------------------------------------- what no table has


def _figures_and_tools() -> Iterator[str]:
    checkpoint = (f"--config.checkpoint={Run('byol.py').workdir}",)
    sides = ("--config.a=runs/first", "--config.b=runs/second")
    views = Run("byol.py", ("--config.job=views",), "views")
    image = Run("operations.py", ("--config.image=photo.jpg",))
    lines = (
        ("BYOL Table 6", "T and T' on images of the data set", views),
        ("SimCLR Figure 4", "every operation on one image", image),
        (
            "SimCLR Tables 8 and B.5, bold print",
            "whether two results differ by more than chance",
            Run("compare.py", sides),
        ),
        ("none", "frozen features of a checkpoint", Run("evaluate.py", checkpoint)),
        ("none", "the embeddings of a data set as files", Run("embed.py", checkpoint)),
        ("none", "an encoder for other programs", Run("export.py", checkpoint)),
    )
    yield from _table(
        "paper | what | page | command",
        ([place, what, _page(run.page), _code(run)] for place, what, run in lines),
    )


def _measured_by(page: str) -> Iterator[list[str]]:
    """A line per network in the docstring of a page, the first one with the command."""
    docstring = importlib.import_module(f"experiments.{page}").__doc__ or ""
    text = docstring[docstring.index("Measured") :]
    (header, *rows), *_ = _docstring_tables(text)
    # The command itself, or the flags that the page's own takes.
    before, _, _ = text.partition("\n|")
    block = re.search(r"^ {4}python.*(?:\n {4}.*)*", before, re.MULTILINE)
    flags = tuple(re.findall(r"`(--config\.[^`]*)`", before))
    command = Run(f"{page}.py{_MEASURED_PAGES[page]}", flags).command
    if block:
        command = " ".join(block[0].replace("\\\n", " ").split())
    first = [_page(page), f"`{command}`"]
    for cells in rows:
        row = dict(zip(header, cells, strict=True))
        yield [*first, row["network"], *(row[column] for column in _COLUMNS)]
        first = ["", ""]


# ---------------------------------------------------------------- the document


def _anchor(table: str, section: str) -> str:
    return re.sub("[^a-z0-9]+", "-", f"{section} {papers.place(table)}".lower())


def _placed(lines: Iterable[Line], section: str) -> Iterator[list[str]]:
    """The cells of lines, where the first one of each table is what the index links to."""
    anchored: set[str] = set()
    for table, cells in lines:
        link = f'<a id="{_anchor(table, section)}"></a>' if table not in anchored else ""
        anchored.add(table)
        yield [link + papers.place(table), *cells]


def _index(sections: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    """A line per paper, with a link to each of its tables."""
    for paper, name in papers.NAMES.items():
        words = []
        for section, lines in sections.items():
            links: dict[str, str] = {}
            for table, (title, *_) in lines:
                if (table.rpartition("-")[0] or "byol") == paper:
                    printed = papers.place(table).removeprefix(f"{name} ")
                    is_numbered = printed.startswith(("Table", "Figure", "App."))
                    word = printed if is_numbered else title.partition(", linear")[0]
                    links.setdefault(table, f"[{word}](#{_anchor(table, section)})")
            words += [f"{section}: {', '.join(links.values())}"] if links else []
        yield f"- **{name}**, {'; '.join(words)}"
    yield ""


def _paragraph(text: str) -> str:
    return " ".join(text.split()) + "\n"


def document() -> str:
    """The text of docs/reproduce.md."""
    sections = {
        "evaluations": [*_evaluations()],
        "ablations": [*_ablations()],
        "not here yet": [*_not_here_yet()],
    }
    placed = {section: _placed(lines, section) for section, lines in sections.items()}
    evaluations = "paper | what | rows | page | command | paper's number"
    ablation = "paper | what is varied | method | rows | command | paper's top-1 | released rows"
    measured = itertools.chain.from_iterable(map(_measured_by, _MEASURED_PAGES))
    lines = [
        "<!-- generated by: python -m experiments.papers.reproduce docs/reproduce.md -->",
        *("# The papers' tables", _paragraph(_INTRODUCTION), *_index(sections)),
        *("## Trainings", _paragraph(_TRAININGS), *_trainings()),
        *("## Evaluations", _paragraph(_EVALUATIONS)),
        *_table(evaluations, placed["evaluations"]),
        *(
            "### Not here yet",
            _paragraph(_NOT_YET),
        ),
        *_table("paper | what | command", placed["not here yet"]),
        *("## Ablations", _paragraph(_ABLATIONS), *_table(ablation, placed["ablations"])),
        *("## Figures and tools", *_figures_and_tools()),
        *("## Measured", _paragraph(_MEASURED)),
        *_table(f"page | command | network | {' | '.join(_COLUMNS)}", measured),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Prints the document, or writes it to the file that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=pathlib.Path)
    file = parser.parse_args().file
    if file is None:
        print(document(), end="")
    else:
        file.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
