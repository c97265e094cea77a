"""Which cells of a table can be run, and what is said of them."""

import numpy as np
import pytest

import tiny_checkpoints
from byol_jax.data import sources
from byol_jax.jobs import plans
from experiments import paper as page
from tiny_dense import picture, save_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A BYOL of TinyResNet 2x, of 6 steps on digits."""
    return str(tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "digits"))


@pytest.fixture(scope="module")
def another_method(tmp_path_factory) -> str:
    """The same network, trained with negatives and a target network."""
    workdir = tmp_path_factory.mktemp("other")
    return str(tiny_checkpoints.save(workdir, "digits", objective__name="info_nce"))


def config_of(options: str, checkpoint: str | None = None, **changes):
    """CIFAR10's images are digits, and any network will do."""
    config = page.get_config(options)
    config.checkpoint = checkpoint
    config.update({"datasets": "CIFAR10=digits", "any_network": True, **changes})
    return config


def test_the_data_of_a_pre_training_is_known_by_its_name(tmp_path, checkpoint) -> None:
    """What CIFAR10 is called here is also what the checkpoint was trained on."""
    config = config_of("table=3,row=BYOL,cells=CIFAR10", checkpoint, any_network=False)
    for cell in config.cells:
        cell["network"] |= {"depth": "tiny", "width": 2.0, "data": "cifar10"}
    (one, _), left_out = plans.plan_cells(config, tmp_path)
    assert not left_out
    assert not any("a BYOL" in words for words in one.departures)


def test_a_method_without_rows_stands_under_its_own_description(tmp_path, another_method) -> None:
    config = config_of("table=3,cells=CIFAR10,protocol=linear", another_method)
    run, _ = plans.plan_cells(config, tmp_path)
    assert [one.cell["row"] for one in run] == [
        *("BYOL (ours)", "SimCLR (repro)", "Supervised-IN [8]")
    ]
    for one in run:
        assert one.name.startswith("a ResNet-tiny (2x) trained with objective.name=info_nce")
        assert one.name.endswith(f"beside {one.cell['name']}")
    config.any_network = False
    run, left_out = plans.plan_cells(config, tmp_path)
    assert not run
    assert any("the checkpoint is a ResNet-tiny (2x) trained with" in why for _, why in left_out)


def test_images_are_counted_against_table_10(tmp_path, checkpoint) -> None:
    config = config_of("table=3,row=BYOL,cells=CIFAR10", checkpoint)
    for one in plans.plan_cells(config, tmp_path)[0]:
        assert one.departures[-3:] == (
            "1,295 fitted images (Table 10 has 45,000)",
            "143 validation images (Table 10 has 5,000)",
            "359 test images (Table 10 has 10,000)",
        )
        assert one.scored == 359


def test_a_validation_split_of_another_size_than_table_10s_is_named(
    tmp_path, checkpoint, monkeypatch
) -> None:
    """App. E.1's rule makes 2,443 validation images of Birdsnap, the table has 4,981."""
    sizes = {"train": 44_943, "valid": 2_443, "test": 2_443}

    class Counted:
        def __init__(self, size):
            self.size = size

    monkeypatch.setattr(sources, "load", lambda dataset, split, *_, **__: Counted(sizes[split]))
    config = config_of("table=3,row=BYOL,cells=Birdsnap,protocol=linear", checkpoint)
    config.folders = "Birdsnap=/images"
    ((one,), _) = plans.plan_cells(config, tmp_path)
    assert one.departures[-2:] == (
        "44,943 fitted images (Table 10 has 42,405)",
        "2,443 validation images (Table 10 has 4,981)",
    )


def test_an_untrained_network_needs_an_architecture_alone(tmp_path, another_method) -> None:
    """The 1.4 % of BYOL section 3, on digits."""
    config = config_of("table=text", another_method, datasets="imagenet=digits")
    for cell in config.cells:
        cell["benchmark"] = cell["config"]["benchmark"] = "cifar10"
    config.datasets = "CIFAR10=digits"
    ((one,), _) = plans.plan_cells(config, tmp_path)
    assert (one.config.network, one.config.image_size, one.step) == ("random", 224, None)
    assert one.config.checkpoint == another_method
    assert one.cell["numbers"][0]["value"] == 1.4


def test_masks_of_ones_own_are_not_the_papers(tmp_path, checkpoint) -> None:
    """Table 4a on images and masks side by side: 6 to learn from, 2 of them held out."""
    for split, count in (("train", 6), ("test", 3)):
        for i in range(count):
            save_image(tmp_path / "own" / split / f"{i}.png", picture(i, 6, 8))
            save_image(
                tmp_path / "own" / f"{split}annot" / f"{i}.png", np.eye(6, 8, dtype=np.uint8)
            )
    config = config_of("table=4a,row=BYOL,protocol=segmentation", checkpoint)
    config.datasets = f"VOC2012=masks:{tmp_path / 'own'},void=11"
    ((one,), left_out) = plans.plan_cells(config, tmp_path)
    assert not left_out
    assert one.config.dataset == f"masks:{tmp_path / 'own'},void=11"
    assert one.folder == tmp_path / "segmentation-voc2012"
    assert one.departures[-4:] == (
        f"{one.config.dataset} instead of PASCAL-VOC2012",
        "5 fitted images (PASCAL-VOC2012 has 8,463)",
        "1 validation images (PASCAL-VOC2012 has 2,119)",
        "3 test images (PASCAL-VOC2012 has 1,449)",
    )
    assert one.scored == 3


def test_overrides_of_a_dense_cell_are_departures(tmp_path, checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(plans, "_counts", lambda *_: ({}, ""))
    config = config_of("table=12,row=BYOL", checkpoint, override="num_steps=7,seeds=1")
    ((one,), _) = plans.plan_cells(config, tmp_path)
    assert (one.config.num_steps, one.config.seeds) == (7, (1,))
    assert one.config.dataset == "tfds:nyu_depth_v2"
    assert one.departures[-2:] == ("num_steps=7", "seeds=1")
    assert not any("instead of NYU" in words for words in one.departures)
