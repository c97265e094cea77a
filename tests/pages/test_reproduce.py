"""docs/reproduce.md is what its command writes, and every command in it can be given."""

import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import tiny_runs
from byol_jax import jobs
from experiments import ablation_tables, ablations, paper, paper_tables, papers
from experiments.papers import commands, reproduce, trainings
from experiments.papers.cells import Network

PATH = tiny_runs.ROOT / "docs" / "reproduce.md"
DOCUMENT = reproduce.document()
COMMANDS = [*dict.fromkeys(re.findall(r"`(python -m byol_jax\.main [^`]*)`", DOCUMENT))]


def flags_of(command):
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "byol_jax.main"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in words[3:])
    assert len(flags) == len(words) - 3  # none of them twice
    return flags


def config_of(command):
    page, _, options = flags_of(command)["config"].partition(":")
    assert (tiny_runs.ROOT / page).is_file()
    module = importlib.import_module(page.removesuffix(".py").replace("/", "."))
    return module.get_config(*filter(None, [options]))


def lines_with(command):
    """The cells of each line of the document with a command."""
    lines = [line for line in DOCUMENT.splitlines() if f"`{command}`" in line]
    return [
        [re.sub(r"<a.*</a>", "", cell.strip()) for cell in line.strip("|").split(" | ")]
        for line in lines
    ]


def line_with(command):
    """The cells of the only line of the document with a command."""
    (line,) = lines_with(command)
    return line


def test_the_file_is_what_the_command_writes(tmp_path):
    program = (
        "import runpy, sys; sys.argv = ['reproduce', sys.argv[1]]; "
        "runpy.run_module('experiments.papers.reproduce', run_name='__main__'); "
        "assert not {'jax', 'tensorflow'} & {*sys.modules}"
    )
    subprocess.run(
        [sys.executable, "-c", program, "out.md"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
        check=True,
    )
    written = pathlib.Path(tmp_path / "out.md").read_text()
    again = "docs/reproduce.md is old: python -m experiments.papers.reproduce docs/reproduce.md"
    assert PATH.read_text() == written, again


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_given(command):
    flags = flags_of(command)
    config = config_of(command)
    assert config.job in jobs.JOBS
    for name, value in flags.items():
        if name.startswith("config."):
            key = name.removeprefix("config.")
            old = config
            for part in key.split("."):
                assert part in old, key
                old = old[part]
            if old is not None:
                type(old)(value)  # as the flag parses it
    assert re.fullmatch(r"runs/[\w./-]+", flags["workdir"])


def test_checkpoints_are_workdirs_of_the_document():
    workdirs = {flags_of(command)["workdir"] for command in COMMANDS}
    named = [flags_of(c).get("config.checkpoint") for c in COMMANDS]
    assert len([*filter(None, named)]) > 30
    assert {*filter(None, named)} <= workdirs


def test_a_workdir_of_a_training_is_that_of_one_command():
    workdirs = [
        flags_of(command)["workdir"]
        for command in COMMANDS
        if not re.search("/(paper|ablate)[.]py", command)
    ]
    assert len(workdirs) > 50 and len({*workdirs}) == len(workdirs)


def test_every_table_is_in_the_index_once():
    anchors = re.findall(r'<a id="([^"]*)"></a>(.*?) \|', DOCUMENT)
    links = re.findall(r"\]\(#((?:evaluations|ablations|not-here-yet)-[^)]*)\)", DOCUMENT)
    assert sorted(links) == sorted(anchor for anchor, _ in anchors)
    assert len({*links}) == len(links)
    tables = {*paper_tables.TABLES, *ablation_tables.TABLES, "10", "simclr-3"}
    assert {place for _, place in anchors} == {papers.place(table) for table in tables}


def test_every_link_to_a_file_has_one():
    for target in re.findall(r"\]\(([^)#]+)\)", DOCUMENT):
        assert (PATH.parent / target).exists(), target


@pytest.mark.parametrize(
    ("config", "cells"),
    [
        ("byol.py --workdir=runs/byol", {"74.3 / 91.6", "published: BYOL App. A"}),
        (
            "byol.py:depth=200,width=2 --workdir=runs/byol-depth-200-width-2",
            {"BYOL Table 1, Table 7, Table 9", "79.6 / 94.8 (94.9 in Table 9)"},
        ),
        ("byol.py:epochs=300 --workdir=runs/byol-epochs-300", {"72.5 / 90.8"}),
        ("byol.py:batch=512 --workdir=runs/byol-batch-512", {"BYOL App. H", "73.7"}),
        ("byol.py:epochs=40 --workdir=runs/byol-epochs-40", {"none", "not published"}),
        ("places365.py --workdir=runs/places365", {"BYOL Table 13", "53.2 on Places365"}),
        ("imagenette.py --workdir=runs/imagenette", {"README of BYOL's code"}),
        (
            "simclr.py:epochs=1000,width=4,augment=broader "
            "--workdir=runs/simclr-epochs-1000-width-4-augment-broader",
            {"76.8", "published: SimCLR App. B.2"},
        ),
        ("simclr.py:data=cifar10 --workdir=runs/simclr-data-cifar10", {"94.0 on CIFAR-10"}),
        (
            "simsiam.py:epochs=800,batch=256 --workdir=runs/simsiam-epochs-800-batch-256",
            {"Lecture, 1", "71.3"},
        ),
        ("moco.py:version=1 --workdir=runs/moco-version-1", {"60.6 top-1"}),
        ("supcon.py:base=cifar10 --workdir=runs/supcon-base-cifar10", {"96.0 top-1 on CIFAR-10"}),
        (
            "supervised.py:epochs=1000,augment=simclr --config.dataset=tfds:imagenet2012 "
            "--workdir=runs/supervised-epochs-1000-augment-simclr",
            {"76.4 (76.3 in SimCLR App. B.8.1)"},
        ),
        (
            "paper.py:table=1 --config.checkpoint=runs/byol --workdir=runs/byol/table-1",
            {"BYOL Table 1", "74.3 / 91.6 to 79.6 / 94.8"},
        ),
        (
            "paper.py:table=2 --config.checkpoint=runs/byol --workdir=runs/byol/table-2",
            {"1%: 53.2 / 78.4 to 71.2 / 89.5; 10%: 68.8 / 89.0 to 77.7 / 93.7"},
        ),
        (
            "paper.py:table=3,protocol=finetune,row=Random --workdir=runs/from-scratch/table-3",
            {"transfer, fine-tuned", "Random init", "53.6 (SUN397) to 95.9 (CIFAR10)"},
        ),
        (
            "paper.py:table=13 --config.checkpoint=runs/places365 "
            "--workdir=runs/places365/table-13",
            {"Places365: 53.2; ImageNet: 58.5; 28.8 (Birdsnap) to 90.0 (Flowers)"},
        ),
        (
            "paper.py:table=4a --config.checkpoint=runs/byol "
            "--config.folders=VOC2012=VOCdevkit --workdir=runs/byol/table-4a",
            {"BYOL Table 4a", "segmentation", "BYOL (ours)", "mIoU: 76.3"},
        ),
        (
            "paper.py:table=11 --config.checkpoint=runs/moco-version-1 "
            "--config.folders=VOC2012=VOCdevkit --workdir=runs/moco-version-1/table-11",
            {"segmentation", "MoCo", "mIoU: 72.5"},
        ),
        (
            "paper.py:table=4b --config.checkpoint=runs/byol --workdir=runs/byol/table-4b",
            {"depth", "BYOL (ours)", "NYU v2: 84.6 / 96.7 / 99.1 / 0.541 / 0.129"},
        ),
        (
            "paper.py:table=12 --config.checkpoint=runs/supervised-epochs-90-augment-crop "
            "--workdir=runs/supervised-epochs-90-augment-crop/table-12",
            {"depth", "Supervised-IN", "NYU v2: 81.1 / 95.3 / 98.8 / 0.573 / 0.127"},
        ),
        (
            "supervised.py:epochs=90,augment=crop --config.dataset=tfds:imagenet2012 "
            "--workdir=runs/supervised-epochs-90-augment-crop",
            {"SimCLR Table B.3", "76.5"},
        ),
        (
            "ablate.py:table=17,method=byol --workdir=runs/ablation-17",
            {"BYOL Table 17", "augmentations", "14", "59.4 to 72.5", "1, 4, 6, 11, 13, 14"},
        ),
        ("ablate.py:table=17,method=simclr --workdir=runs/ablation-17", {"40.2 to 68.1"}),
        (
            "ablate.py:table=lecture-moco --workdir=runs/ablation-lecture-moco",
            {"Lecture, moco", "MoCo", "fails, or 55.2 to 59.0"},
        ),
        ("ablate.py:table=G,method=simclr --workdir=runs/ablation-G", {"1", "no number"}),
    ],
)
def test_a_command_stands_beside_the_papers_number(config, cells):
    """The numbers are typed from the papers."""
    lines = lines_with(f"python -m byol_jax.main --config=experiments/{config}")
    assert any(cells <= {*line} for line in lines)


@pytest.mark.parametrize("table", ["4a", "11"])
def test_of_these_tables_detection_alone_is_not_here(table):
    where = f"python -m byol_jax.main --config=experiments/paper.py:table={table}"
    command = f"{where},protocol=detection --workdir=runs/table-{table}"
    assert line_with(command)[:2] == [f"BYOL Table {table}", "detection"]
    start = DOCUMENT.index("### Not here yet")
    assert f"{where} " not in DOCUMENT[start:] and f"{where} " in DOCUMENT[:start]
    assert "paper.py:table=4b" not in DOCUMENT[start:]


def test_a_command_trains_the_network_that_the_tables_need():
    for network in commands.networks():
        run = commands.training_of(network)
        config = config_of(run.command)
        for name, value in flags_of(run.command).items():
            if name.startswith("config.") and name != "config.dataset":
                config[name.removeprefix("config.")] = int(value)
        (wanted,) = trainings.configs_of([network])
        given, needed = config.to_dict(), wanted["config"]
        differing = {key for key in needed if given[key] != needed[key]}
        # Nothing follows at tau in SimCLR.
        unused = {"recipe", "tau_base"} if network.variant == "repro" else set()
        assert differing <= unused, run.command


def test_the_commands_of_evaluations_run_every_cell_that_can_be_run():
    found = []
    for command in COMMANDS:
        flags = flags_of(command)
        page, _, options = flags["config"].partition(":")
        if page != "experiments/paper.py" or "config.released" in flags:
            continue
        config = paper.get_config(options)
        if not any(cell["page"] for cell in config.cells):  # prints the papers' numbers alone
            continue
        rows = line_with(command)[2]
        cells = [cell for cell in config.cells if cell["page"] and cell["row"].startswith(rows)]
        assert not any(cell["reason"] for cell in cells), command
        # The checkpoint is that of the first row.
        network = cells[0]["network"] and Network(
            *[cells[0]["network"][f] for f in Network._fields]
        )
        checkpoint = commands.training_of(network).workdir if network else None
        assert flags.get("config.checkpoint") == checkpoint
        found += [(cell["table"], cell["name"]) for cell in cells]
    every = [cell for cells in paper_tables.TABLES.values() for cell in cells if cell.page]
    assert sorted(found) == sorted((cell.table, cell.name) for cell in every)


def test_numbers_of_readmes_stand_in_the_docstring_of_their_page():
    rows = papers.read("others")
    assert [*rows] == ["imagenette", "moco", "simsiam", "densecl", "supcon"]
    for page, numbers in rows.items():
        docstring = importlib.import_module(f"experiments.{page}").__doc__
        for _, _, _, number in numbers:
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]\d)", docstring), number


def test_measured_numbers_are_those_of_the_docstrings():
    measured = DOCUMENT[DOCUMENT.index("## Measured") :].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[3:-1]] for line in measured]
    # Network; two labels per class, linear, kNN, std.
    assert ["online", "88.7 +- 0.4", "98.6", "97.8", "0.9"] in rows  # digits.py
    assert ["online", "58.7 +- 1.9", "81.3 +- 2.5", "79.3 +- 1.6", "0.9"] in rows  # simsiam.py
    assert ["random", "13.5 +- 0.2", "26.3", "22.8", "0.8"] in rows  # cifar10.py
    assert len([row for row in rows if row[:1] == ["online"]]) == 6
    assert any("moco.py:base=digits --config.num_steps=600" in line for line in measured)


def test_the_docstring_of_the_ablations_counts_their_rows():
    lines = re.findall(r"^\| (\S+) +\|.*\| (\d+) +\|$", ablations.__doc__, re.MULTILINE)
    counted = {
        table: len({(row.row, row.method) for row in rows})
        for table, rows in ablation_tables.TABLES.items()
    }
    assert {table: int(count) for table, count in lines} == counted
