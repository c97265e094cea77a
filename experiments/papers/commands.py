"""Commands that can be copied into a shell, and the training behind each network of the tables."""

import importlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from experiments import ablation_tables, byol, paper_tables, papers
from experiments.papers import released, trainings
from experiments.papers.cells import Cell, Network, Number
from experiments.papers.cells import numbers as numbers_of
from experiments.papers.rows import Times


class Run(NamedTuple):
    """A run of the program.

    Attributes:
      config: `PAGE.py`, or with options `PAGE.py:OPTIONS`.
      flags: further flags.
      folder: name of the workdir in `runs/`; empty: that of the config.
    """

    config: str
    flags: tuple[str, ...] = ()
    folder: str = ""

    @property
    def page(self) -> str:
        """Name of the page, without its ending."""
        return self.config.partition(".py")[0]

    @property
    def name(self) -> str:
        """Name of the workdir."""
        return self.folder or re.sub(r"[^a-zA-Z0-9.]+", "-", self.config.replace(".py", "", 1))

    @property
    def workdir(self) -> str:
        """The workdir."""
        return f"runs/{self.name}"

    @property
    def command(self) -> str:
        """What a shell takes."""
        flags = (f"--config=experiments/{self.config}", *self.flags, f"--workdir={self.workdir}")
        return " ".join(("python -m byol_jax.main", *flags))


def run_of(page: str, options: Sequence[str] = (), flags: tuple[str, ...] = ()) -> Run:
    """The run of a page, without the options that change nothing in its config."""
    kept = [*options]
    for option in options:
        others = [other for other in kept if other != option]
        if _config(page, others) == _config(page, kept):
            kept = others
    return Run(":".join((f"{page}.py", ",".join(kept))) if kept else f"{page}.py", flags)


def _config(page: str, options: Sequence[str]) -> Any:
    module = importlib.import_module(f"experiments.{page}")
    return module.get_config(*filter(None, [",".join(options)]))


def recipe(run: Run) -> str:
    """What a training says of its settings: whether they are published, and where."""
    return str(_config(run.page, run.config.partition(":")[2].split(",")).recipe)


def training_of(network: Network) -> Run:
    """The run that trains a network of the tables."""
    if network.method == "random":  # an initialisation: that of any training
        network = network._replace(method="byol")
    if (network.variant, network.data) == ("repro", "imagenet"):
        flags = (f"--config.num_epochs={network.epochs}",)
        return Run("ablations.py:table=17,row=1,method=simclr", flags, "simclr-repro")
    page, _, options = trainings.page(network).partition(".py")
    return _supervised(options) if page == "supervised" else run_of(page, _words(options))


def _words(options: str) -> list[str]:
    return [*filter(None, options.removeprefix(":").split(","))]


def _supervised(options: str) -> Run:
    return run_of("supervised", _words(options), ("--config.dataset=tfds:imagenet2012",))


# ---------------------------------------------------------------- trainings and their numbers


class Training(NamedTuple):
    """A training, and its number in one place.

    Attributes:
      place: where the number is printed.
      run: what makes it.
      number: the number, and what it is if it is not linear evaluation on ImageNet.
    """

    place: str
    run: Run
    number: str


def places(tables: Sequence[str]) -> str:
    """`BYOL Table 1, Table 7`: tables of one paper."""
    first, *others = dict.fromkeys(map(papers.place, tables))
    paper = first.partition(" ")[0] + " "
    return ", ".join((first, *(place.removeprefix(paper) for place in others)))


def text(numbers: Sequence[Number]) -> str:
    """`74.3 / 91.6`."""
    return " / ".join(f"{number.value:.{number.decimals}f}" for number in numbers)


def networks() -> dict[Network, list[Cell]]:
    """The networks that the evaluations need, each with its cells."""
    cells = itertools.chain(*paper_tables.TABLES.values(), *released.TABLES.values())
    found: dict[Network, list[Cell]] = {}
    for cell in cells:
        # The other released networks are rows of ablations.
        is_row = cell.released not in ("", "res50x1_baseline.pkl")
        if cell.network and cell.network.method != "random" and not is_row:
            found.setdefault(cell.network, []).append(cell)
    return found


def _own(network: Network, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that say how good a network is on the data set that it was trained on."""
    if network.method == "supervised":
        options = {*_words(trainings.page(network).partition(".py")[2])}
        every = itertools.chain(*paper_tables.TABLES.values())
        return [c for c in every if c.page == "supervised" and {*_words(c.options)} == options]
    plain = ("", "protocol=simclr")
    linear = [cell for cell in cells if cell.page == "linear" and cell.options in plain]
    return [cell for cell in linear if cell.benchmark == network.data]


def of_networks() -> Iterator[Training]:
    """The trainings of all networks that the evaluations need."""
    for network, cells in networks().items():
        own = _own(network, cells)
        number = f"none; evaluated in {places([cell.table for cell in cells])}"
        if own:
            # Some tables have no top-5.
            longest = max(own, key=lambda cell: len(cell.numbers))
            elsewhere = dict.fromkeys(n.elsewhere for n in longest.numbers if n.elsewhere)
            number = text(longest.numbers) + f" ({', '.join(elsewhere)})" * bool(elsewhere)
            number += " on Places365" * (network.data == "places365")
        where = places([cell.table for cell in own]) if own else "none"
        yield Training(where, training_of(network), number)


def of_texts() -> Iterator[Training]:
    """Trainings whose numbers stand in a sentence, in an ablation, in a README, or nowhere."""
    byol_text, simclr_text = papers.read("byol"), papers.read("simclr")
    for epochs, batch, *cells in byol_text["App. H"]:
        run = run_of("byol", [f"epochs={epochs}", f"batch={batch}"])
        yield Training("BYOL App. H", run, text(numbers_of({"Top-1": "top1"}, cells)))
    shorter = min(epochs for epochs, _ in byol.RECIPES)
    yield Training("none", run_of("byol", [f"epochs={shorter}"]), "not published")
    for row in ablation_tables.TABLES["simclr-B.1"]:
        batch_size = row.changes["batch_size"]
        assert isinstance(batch_size, Times)
        if batch_size.printed == batch_size.default and "linear" in row.name:
            run = run_of("simclr", [f"epochs={row.epochs}"])
            yield Training(row.place, run, str(row.numbers["top1"]))
    for batch, number in simclr_text["App. B.9"]:
        run = run_of("simclr", ["data=cifar10", f"batch={batch}"])
        yield Training("SimCLR App. B.9", run, f"{number} on CIFAR-10")
    first = next(cell for cell in paper_tables.TABLES["9"] if cell.page == "supervised")
    yield Training(papers.place("9"), _supervised(first.options), text(first.numbers))
    for page, rows in papers.read("others").items():
        for options, source, what, number in rows:
            yield Training(source, run_of(page, _words(options)), f"{number} {what}".strip())
    for page in ("cifar10", "supcon"):
        yield Training("none", Run(f"{page}.py"), "not published")
