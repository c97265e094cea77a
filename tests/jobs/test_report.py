"""The page that shows a run."""

import html.parser
import json
import os
import re
import shutil
import subprocess

import ml_collections
import numpy as np
import pytest
from PIL import Image

import tiny_runs
from byol_jax import jobs, train, weights
from byol_jax.data import stored
from byol_jax.data.depth import Depth
from byol_jax.errors import UserError
from byol_jax.jobs import report, representations
from byol_jax.results import records
from byol_jax.runtime import checkpoints
from experiments import report as page

# Headers and heads, every figure and what it is of.
HEADINGS = ("curves", "views", "neighbours", "maps", "results", "recipe", "more")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A run on a folder with classes and a space and a bracket in its name, evaluated."""
    root = tmp_path_factory.mktemp("labelled")
    config = tiny_runs.tiny_config(
        tiny_runs.write_folder(root / "my <images>"),
        evaluation__at_end=True,
        evaluation__knn_every=3,
        evaluation__draws=1,
    )
    config.recipe = "of a test; changed: batch_size, data.area_min"
    train.pretrain(config, root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    root = tmp_path_factory.mktemp("unlabelled")
    folder = root / "images"
    folder.mkdir()
    for i, pixels in enumerate(tiny_runs.images(20, 12)):
        Image.fromarray(pixels).save(folder / f"photo{i:02}.png")
    config = tiny_runs.tiny_config(f"folder:{folder}")
    train.pretrain(config, root / "run")
    return root / "run"


class Page(html.parser.HTMLParser):
    """What a page refers to, and its words."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.sources, self.links, self.words = [], [], [], []
        self.open = []
        self.feed(text)
        self.words = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        """Collects what a tag refers to."""
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.sources += [attrs[key] for key in ("src", "xlink:href") if key in attrs]
        self.links += [attrs["href"]] if tag in ("a", "link") else []
        self.open.append(tag)

    def handle_data(self, data):
        """Collects words that are shown."""
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)


def written(path, workdir, **options):
    return report.write(str(path), workdir, report.Options(**options)).read_text()


def points_of(text):
    return json.loads(re.search(r'<script[^>]*id="points">(.*?)</script>', text, re.S)[1])


def test_the_page_has_all_parts_and_needs_nothing_else(labelled, tmp_path):
    text = written(labelled, tmp_path)
    shown = Page(text)
    assert {*HEADINGS} <= {*shown.ids}
    assert shown.sources and all(
        source.startswith(("data:image/", "#")) for source in shown.sources
    )
    assert all(link.startswith("file:") for link in shown.links)
    # Addresses of XML's own names alone.
    assert {*re.findall(r"https?://([\w.]+)", text)} <= {
        "www.w3.org",
        "purl.org",
        "creativecommons.org",
    }
    assert "@import" not in text and "<link" not in text


def test_names_of_files_and_folders_are_escaped(labelled, tmp_path):
    text = written(labelled, tmp_path)
    assert "my <images>" not in text
    assert "my &lt;images&gt;" in text


def test_the_numbers_are_those_of_the_files(labelled, tmp_path):
    shown = Page(written(labelled, tmp_path))
    last = [row for row in tiny_runs.metrics(labelled) if row["split"] == "train"][-1]
    assert f"loss {last['loss']:.4g}" in shown.words
    assert f"spread {last['projection_std']:.2f}" in shown.words
    results = records.read_results(labelled / "results.json")
    (knn,) = (r for r in results if r.protocol == "knn" and r.network == "online")
    assert f"{knn.value:.1f} +- {knn.settings['standard_error']:.1f}" in shown.words
    assert "weighted nearest neighbours" in shown.words
    assert "kNN on the scored images" in shown.words


def test_what_was_changed_stands_beside_the_recipe(labelled, tmp_path):
    shown = Page(written(labelled, tmp_path))
    assert "Changed on the command line: batch_size 8 data.area_min 0.08" in shown.words


def test_points_are_the_scored_images_with_their_labels(labelled, tmp_path):
    points = points_of(written(labelled, tmp_path))
    assert len(points["names"]) == 12  # the test split
    assert {name.split("/")[0] for name in points["names"]} == {"test"}
    classes = [name.split("/")[1] for name in points["names"]]
    assert points["labels"] == classes
    assert len({*zip(points["labels"], points["colours"], strict=True)}) == 2
    for places in points["maps"].values():
        assert np.array(places).shape == (12, 2)
        assert np.min(places) >= 0 and np.max(places) <= 500


@pytest.mark.slow
def test_a_set_without_labels_has_one_colour_and_says_so(unlabelled, tmp_path):
    text = written(unlabelled, tmp_path)
    points = points_of(text)
    assert {*points["labels"]} == {""} and len({*points["colours"]}) == 1
    assert "There are no labels" in text and "nothing was evaluated" in text
    assert "the training has seen" in text
    assert "photo" in points["names"][0]


@pytest.mark.slow
def test_a_sample_is_drawn_of_a_large_set(unlabelled, tmp_path):
    text = written(unlabelled, tmp_path, points=9)
    assert len(points_of(text)["names"]) == 9
    assert "9 of the 16 images" in text  # a fifth of 20 is the test split


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(labelled, tmp_path):
    assert written(labelled, tmp_path / "a") == written(labelled, tmp_path / "b")


@pytest.mark.slow
def test_too_few_images_say_so(unlabelled, tmp_path):
    text = written(unlabelled, tmp_path, points=7)
    assert "No representations are shown: there are too few images" in text
    assert '<script type="application/json"' not in text


@pytest.mark.slow
def test_images_that_are_gone_leave_the_rest(unlabelled, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(unlabelled.parent, moved)
    images = unlabelled.parent / "images"
    hidden = images.rename(images.with_name("elsewhere"))
    try:
        text = written(moved / "run", tmp_path)
        assert "Left out, because the images of the run cannot be read" in text
        assert "--config.dataset=" in text and "<svg" in text
        # The user's own word for where they are now.
        text = written(moved / "run", tmp_path, dataset=f"folder:{moved / 'images'}")
        assert points_of(text)["names"]
        with pytest.raises(UserError, match="nowhere"):
            written(moved / "run", tmp_path, dataset="folder:nowhere")
    finally:
        hidden.rename(images)


def test_other_images_have_the_depth_of_the_training(labelled, tmp_path, monkeypatch):
    """The images alone would be taken as 8 bits."""
    for i in range(10):
        Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / f"{i}.png")
    seen = []

    def see(image_set):
        seen.append(int(stored.picture(image_set, 0).max()))
        return {}

    monkeypatch.setattr(report, "_views", lambda image_set, config: see(image_set))
    monkeypatch.setattr(representations, "contents", lambda trained, shown: see(shown.images))
    trained = weights.load(labelled)._replace(depth=Depth(bits=12))
    config = ml_collections.ConfigDict(dict(trained.config))
    report._images(trained, config, report.Options(dataset=f"folder:{tmp_path}"))
    assert seen == [200 >> 4, 200 >> 4]


def config_of(run, **changes):
    config = page.get_config()
    config.checkpoint = str(run)
    config.update(changes)
    return config


@pytest.mark.slow
def test_a_second_report_replaces_the_first_and_says_so(labelled, tmp_path, capsys):
    job = jobs.job_of("report")
    job(config_of(labelled), tmp_path)
    assert capsys.readouterr().out.startswith(f"written: {tmp_path / 'report.html'}")
    (tmp_path / "report.html").write_text("old")
    job(config_of(labelled / "checkpoints" / "6"), tmp_path)
    assert capsys.readouterr().out.startswith(f"replaced: {tmp_path / 'report.html'}")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_run_without_metrics_is_refused(labelled, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(labelled, copy)
    (copy / "metrics.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl holds no values"):
        report.run(config_of(copy), copy)
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=f"config.checkpoint={copy}: there is no .*metrics.jsonl"):
        report.run(config_of(copy), copy)
    assert not (copy / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": ""}, "config.checkpoint is needed"),
        ({"checkpoint": "weights.pkl"}, "one network without the run"),
        ({"network": "random"}, "config.network='random'"),
        ({"points": 0}, "config.points=0"),
        ({"points": 2001}, "config.points=2001"),
        ({"split": "tset"}, "'tset'"),
    ],
)
def test_mistakes(labelled, tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        report.run(config_of(labelled, **changes), tmp_path)
    assert words in str(error.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_without_a_workdir_it_goes_into_that_of_the_run(labelled, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(labelled, copy)
    done = tiny_runs.program(
        "--config=experiments/report.py", f"--config.checkpoint={copy}/checkpoints/6"
    )
    assert done.returncode == 0, done.stderr
    assert (copy / "report.html").is_file()


@pytest.mark.parametrize("path", ["run", "run/checkpoints", "run/checkpoints/6", "7"])
def test_the_workdir_of_a_path(path, tmp_path):
    expected = tmp_path / path.split("/")[0]
    assert checkpoints.workdir_of(tmp_path / path) == expected


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("byol", ", which the training did not use except in its online probe"),
        ("supcon", ", which the training learnt from"),
        ("own:method", ""),
    ],
)
def test_the_use_of_labels_is_that_of_the_objective(labelled, method, words):
    trained = weights.load(labelled)._replace(method=method)
    assert report._use_of_labels(trained) == words


@pytest.mark.slow
def test_names_may_be_any_bytes(tmp_path):
    folder = os.fsencode(tmp_path / "images")
    for name in (b"caf\xe9", b"x"):
        os.makedirs(os.path.join(folder, name))
        for i in range(10):
            with open(os.path.join(folder, name, b"%d.png" % i), "wb") as file:
                Image.fromarray(tiny_runs.images(1, 12, i)[0]).save(file, "png")
    train.pretrain(tiny_runs.tiny_config(f"folder:{tmp_path / 'images'}"), tmp_path / "run")
    text = written(tmp_path / "run", tmp_path)
    assert "caf\\xe9" in text


def test_a_page_of_as_many_images_as_there_may_be_is_small():
    """Noise is the largest picture, and long names of other scripts are the largest words."""
    noise = tiny_runs.images(representations.POINTS, 32)
    uri = representations.html.sprite(list(noise), 32).uri
    name = representations._shortened("\u4e2d" * 200)
    assert len(uri) + representations.POINTS * len(json.dumps(name)) < 2.5e6


def test_values_behind_the_checkpoint_are_left_out(labelled, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(labelled, copy)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "split": "train", "loss": 123.0}\n')
    assert "loss 123" not in Page(written(copy, tmp_path)).words


def test_low_values_are_said_to_be_low():
    def cards(spread, ranks):
        series = {"projection_std": [spread], "embedding_rank": ranks}
        metrics = {
            ("train", name): report.curves.Series(np.arange(len(values)), np.array(values))
            for name, values in series.items()
        }
        return {card["name"]: card for card in report._cards(metrics, 7)}

    fine = cards(0.9, [10.0, 5.0])
    assert not fine["spread"]["bad"] and not fine["effective rank"]["bad"]
    assert "low" in cards(0.4, [1.0])["spread"]["words"]
    assert "collapsed" in cards(0.01, [1.0])["spread"]["words"]
    # The rank of drawn weights does not count.
    assert not cards(0.9, [30.0, 10.0, 9.0, 8.0])["effective rank"]["bad"]
    fell = cards(0.9, [1.0, 10.0, 4.9])["effective rank"]
    assert fell["bad"] and "10.0" in fell["words"]


def test_places_keep_their_shape_and_fill_the_map():
    places = np.array(representations.placed(np.array([[0.0, 0.0], [2.0, 1.0]])))
    assert places.tolist() == [[12, 369], [488, 131]]  # 476 wide, 238 high, y upwards


def test_each_class_has_its_own_colour():
    for count in (3, 10, 15, 60):
        colours = representations.palette([-1, *range(count)])
        assert len({*colours.values()}) == count + 1
    # Classes of a sample need not start at 0.
    assert representations.palette([3, 7])[3] == representations.palette([0, 1])[0]


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(not browser(), reason="no Chromium: the page is not opened in a browser")
def test_a_browser_draws_the_maps(labelled, tmp_path):
    path = report.write(str(labelled), tmp_path)
    done = subprocess.run(
        [
            *(browser(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    for key in ("pca", "tsne"):
        drawn = re.search(rf'<svg[^>]*data-map="{key}"[^>]*>(.*?)</svg>', done.stdout, re.S)[1]
        assert drawn.count("<circle") == 12
