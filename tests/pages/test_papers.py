"""The printed tables: the parser, and a comparison with the papers' own text."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import papers

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("BYOL_SHARED", "../shared"))

# The texts that hold the tables: BYOL's body and appendices, SimCLR's, and the lecture's.
TEXTS = {"byol": ("001", "003"), "simclr": ("002",), "lecture": ("000",)}
TABLES = [
    (paper, heading)
    for paper in papers.NAMES
    for heading in papers.read(paper)
    if heading not in ("Text", "App. A", "App. B.9", "App. H")
]

# Marks of the texts, in this order, and what stands for them here.
MARKS = (
    (r"\*\*|</?b>|\[†\]", ""),
    (r"\$?(\d)\s*\\times\s*\$?", r"\1x"),
    (r"\$", ""),
    (r"(\d) \\cdot 10\^\{-(\d)\}", r"\1e-\2"),
    (r"\s*(?:±|\\pm)\s*", " +- "),
    (r"\\text\{sg\}", "sg"),
    (r"\\ell_2 ?", "l2"),
    (r"\\(theta|xi)", r"\1"),
    (r"\\mathcal\{T\}", "T"),
    (r"\\mu_\{proj\}", ""),
    ("\N{MULTIPLICATION SIGN}", "x"),
    ("\N{CHECK MARK}", "yes"),
    ("[\N{EN DASH}\N{EM DASH}]", "-"),
    ("LAYERNORM", "LayerNorm"),
    ("BATCHNORM", "BatchNorm"),
)
# Tables whose cells are shifted in the text: their empty cells are left out.
SHIFTED = {("byol", heading) for heading in ("Table 18", "Table 19", "Table 22")}


def plain(line):
    for mark, words in MARKS:
        line = re.sub(mark, words, line)
    return [cell.strip() for cell in line.rstrip().split("\t")]


def is_data(cells):
    return len(cells) > 1 and any(re.match(r"\d+\.\d+( |$)", cell) for cell in cells)


def text_of(paper):
    files = [f for text in TEXTS[paper] for f in (SHARED / "papers").glob(f"{text}*.txt")]
    if not files:
        pytest.skip("needs the text of the papers, optional local data: see BYOL_SHARED")
    return "\n".join(file.read_text() for file in sorted(files)).splitlines()


def test_the_numbers_of_simclrs_app_a_are_those_of_its_sentence():
    (sentence,) = (line for line in text_of("simclr") if "helpful but not essential" in line)
    printed = re.findall(r"from (\S+)% to (\S+)%", sentence)
    assert printed == [tuple(cells[1] for cells in papers.read("simclr")["App. A"])]


def test_the_number_of_a_batch_of_512_is_that_of_byols_app_h():
    (sentence,) = (line for line in text_of("byol") if "batch size of 512 split" in line)
    (printed,) = re.findall(
        r"(\S+)% top-1 accuracy when trained over (\d+) epochs with a batch size of (\d+)", sentence
    )
    top1, epochs, batch = printed
    assert papers.read("byol")["App. H"] == [[epochs, batch, top1]]


def test_the_number_of_cifar10_is_that_of_simclrs_app_b_9():
    (sentence,) = (line for line in text_of("simclr") if "AMDIM" in line and "CIFAR-10" in line)
    (printed,) = re.findall(r"batch size (\d+) can achieve a linear .*? of (\S+)%,", sentence)
    assert papers.read("simclr")["App. B.9"] == [[*printed]]


@pytest.mark.parametrize("paper", ["byol", "simclr"])
def test_numbers_that_no_table_has_are_in_the_text(paper):
    """All numbers of a row stand in one line of the text."""
    lines = text_of(paper)
    for _, _, *cells in papers.read(paper)["Text"]:
        values = [cell for cell in cells if cell != "-"]
        assert any(all(re.search(rf"\b{v}\b", line) for v in values) for line in lines), values


@pytest.mark.parametrize(("paper", "heading"), TABLES)
def test_a_table_is_that_of_the_paper(paper, heading):
    lines = text_of(paper)
    printed = [plain(line) for line in lines if line.strip()]
    rows = papers.read(paper)[heading]
    if (paper, heading) in SHIFTED:
        printed, rows = ([[c for c in cells if c] for cells in lines] for lines in (printed, rows))
    if (paper, heading) == ("byol", "Table 19"):  # the text has SimCLR a line too high
        printed, rows = (
            [[c for c in cells if c != "SimCLR"] for cells in lines] for lines in (printed, rows)
        )
    if (paper, heading) == ("simclr", "Table 1"):
        rows = rows[1:]  # its header is spread over two lines
    found = [places_of(rows, printed, i) for i, line in enumerate(printed) if line == rows[0]]
    # Tables 4a and 4b begin as Tables 11 and 12 do.
    (places,) = (places for places in found if [printed[i] for i in places] == rows)
    # Neither does the table begin before our first row nor go on after our last.
    assert not is_data(printed[places[0] - 1]) and not is_data(printed[places[-1] + 1])


def places_of(rows, printed, first):
    """Where as many rows of a table stand from a line on: headings and page breaks lie between."""
    places = [i for i in range(first, len(printed)) if is_data(printed[i]) or printed[i] in rows]
    return places[: len(rows)]


def test_the_tables_are_found_from_any_directory_and_without_jax(tmp_path):
    program = (
        "import sys; from experiments import ablation_tables, ablations, paper, paper_tables; "
        "assert not {'jax', 'tensorflow'} & {*sys.modules}; "
        "print(len(ablation_tables.TABLES), len(paper_tables.TABLES))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["24", "23"]


def test_a_file_of_tables_is_read_line_by_line():
    text = "# Comment.\n\n[Table 1]\n# a | b\n | x | yes\n1 | 2.0 +- 0.5 |\n[Table 2]\n- | 3\n"
    tables = papers.parse(text, "x.txt")
    assert tables == {
        "Table 1": [["", "x", "yes"], ["1", "2.0 +- 0.5", ""]],
        "Table 2": [["-", "3"]],
    }
    assert papers.numbers(("top1", "top5"), ["2.0 +- 0.5", "-"]) == {"top1": (2.0, 0.5)}
    assert [*papers.filled([["a", "1"], ["", "2"]])] == [["a", "1"], ["a", "2"]]
    assert [*papers.grid([["", "x", "y"], ["a", "1", "2"]])] == [["a", "x", "1"], ["a", "y", "2"]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 | 2\n", "x.txt:1"),
        ("[Table 1\n1 | 2\n", "x.txt:1"),
        ("[Table 1]\n1 | 2\n[Table 1]\n1 | 2\n", "x.txt:3"),
        ("[Table 1]\n# no row\n", "Table 1"),
    ],
)
def test_a_line_of_another_format_is_named(text, line):
    with pytest.raises(ValueError, match=line):
        papers.parse(text, "x.txt")
