"""The ablations of BYOL (Tables 5, 14 to 22, App. G, J.2) and SimCLR (App. A, Tables 1, 4, 5, B.1).

Each function maps the cells of a printed row to its changes in the recipe of its paper, and
ablations.py makes a config of them. The tables are printed in papers/*.txt; papers/lecture.py has
SimSiam's. SimCLR's Figures 5 and 8 are pictures, so their rows have no numbers.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from experiments import papers
from experiments.papers import lecture
from experiments.papers.rows import TOP1_TOP5, Changes, Setting, Table, Times, build

_BYOL = papers.read("byol")
_SIMCLR = papers.read("simclr")


def _views(**changes: float) -> Changes:
    """The same entries in both columns of BYOL Table 6."""
    return {
        f"augment.{view}.{name}": value
        for view, (name, value) in itertools.product(("view1", "view2"), changes.items())
    }


# ---------------------------------------------------------------- BYOL

# App. J: "set tau = 0 over the full training", "directly hard copying the weights". Table 5a calls
# the same thing a stop-gradient. With tau, the rows of Tables 21 and 22 differ in numbers only.
_HARD_COPY: Changes = {"tau_base": 0.0, "tau_schedule": "constant"}


def _target(target: str, tau: str) -> Setting:
    """Table 5a."""
    if target.startswith("Constant"):
        return "constant random network, tau 1", {"target": "constant"}
    if target.startswith("Stop"):
        return "stop-gradient of online, tau 0 throughout", {"target": "stop_gradient"}
    return f"moving average of online, tau_base {tau}", {"tau_base": float(tau)}


# At beta 0 Eq. 5 has the gradient of Eq. 2: rows with and without negatives are one program. App.
# G.4: "we set the temperature alpha to its best value in the SimCLR setting (i.e., alpha = 0.1)".
def _info_nce(beta: str, alpha: str = "0.1") -> Changes:
    return {
        "objective.name": "info_nce",
        "objective.info_nce.beta": float(beta),
        "objective.info_nce.temperature": float(alpha),
    }


_TARGETS = {
    "xi": ("ema", "target network"),
    "sg(theta)": ("stop_gradient", "stop-gradient of online"),
    "theta": ("online", "no target network"),
}


def _between(label: str, predictor: str, target: str, beta: str) -> Setting:
    """Table 19."""
    kind, words = _TARGETS[target]
    name = f"{'predictor' if predictor else 'no predictor'}, {words}, beta {beta}"
    changes = _info_nce(beta) | {"target": kind}
    if not predictor:
        changes["network.predictor.kind"] = "none"
    return (f"{label}: {name}" if label.strip("-") else name), changes


def _between_without_stop(label: str, predictor: str, target: str, beta: str) -> Setting:
    """Table 5b."""
    return _between(label, predictor, "xi" if target else "theta", beta)


def _depths(projector: str, predictor: str) -> Setting:
    """Table 14a."""
    changes: Changes = {
        "network.projector.depth": int(projector),
        "network.predictor.depth": int(predictor),
    }
    return f"projector of depth {projector}, predictor of depth {predictor}", changes


def _projection_size(size: str) -> Setting:
    """Table 14b."""
    return f"projection of size {size}", {"network.projector.output_size": int(size)}


def _rate(rate: str) -> Setting:
    """Table 15a."""
    changes: Changes = {"optimizer.base_learning_rate": Times(float(rate), 0.3)}
    return f"base learning rate {rate}", changes


def _decay(decay: str) -> Setting:
    """Table 15b."""
    return f"weight decay {decay}", {"optimizer.weight_decay": Times(float(decay), 1e-6)}


def _batch_size(size: str) -> Setting:
    """Table 16: gradients are averaged over N steps, then the target follows once (section 5).

    Negatives are those of one step.
    """
    count = 4096 // int(size)
    return f"batch size {size}: 4096 in {count} part{'s' * (count > 1)}", {"accumulate": count}


_NO_COLOR = {"color_jitter": 0.0, "grayscale": 0.0}
_NO_BLUR = {"blur": 0.0, "solarize": 0.0}
# Crops are never removed: "Crop only" removes every other operation of Table 6.
_AUGMENTATIONS: Mapping[str, Changes] = {
    "Baseline": {},
    "Remove flip": _views(flip=0.0),
    "Remove blur": _views(blur=0.0),
    "Remove color (jittering and grayscale)": _views(**_NO_COLOR),
    "Remove color jittering": _views(color_jitter=0.0),
    "Remove grayscale": _views(grayscale=0.0),
    "Remove blur in T'": {"augment.view2.blur": 0.0},
    "Remove solarize in T'": {"augment.view2.solarize": 0.0},
    "Remove blur and solarize in T'": {"augment.view2.blur": 0.0, "augment.view2.solarize": 0.0},
    "Symmetric blurring/solarization": _views(blur=0.5, solarize=0.2),  # App. G.3
    "Crop only": _views(flip=0.0, **_NO_COLOR, **_NO_BLUR),
    "Crop and flip only": _views(**_NO_COLOR, **_NO_BLUR),
    "Crop and color only": _views(flip=0.0, **_NO_BLUR),
    "Crop and blur only": _views(flip=0.0, **_NO_COLOR, solarize=0.0),
}


def _augmentation(name: str) -> Setting:
    """Table 17."""
    return name, _AUGMENTATIONS[name]


def _negatives(beta: str, alpha: str) -> Setting:
    """Table 18."""
    return f"beta {beta}, temperature {alpha}", _info_nce(beta, alpha)


# By the names of the rows, because the text pairs them with n_BN, n_LN and n_ID in the wrong order
# (docs/deviations.md).
_NORMALIZATIONS = {
    "l2-norm": "l2",
    "LayerNorm": "layer",
    "No normalization": "none",
    "BatchNorm": "batch",
}


def _normalization(name: str) -> Setting:
    """Table 20."""
    return f"{name} in the loss", {"objective.byol.normalization": _NORMALIZATIONS[name]}


def _predictor_rate(factor: str) -> Setting:
    """Table 21."""
    if factor == "Baseline":
        return "baseline: BYOL", {}
    changes = _HARD_COPY | {"optimizer.predictor_rate": float(factor)}
    return f"tau 0, predictor rate x {factor}", changes


def _head_rates(projector: str, predictor: str) -> Setting:
    """Table 22."""
    changes = _HARD_COPY | {
        "optimizer.projector_rate": float(projector),
        "optimizer.predictor_rate": float(predictor),
    }
    return f"tau 0, projector rate x {projector}, predictor rate x {predictor}", changes


def _initial_weights(factor: str) -> Setting:
    """App. G."""
    return f"initial weights x {factor}", {"network.init_scale": float(factor)}


def _no_weight_decay() -> Setting:
    """App. G."""
    return "no weight decay", {"optimizer.weight_decay": 0.0}


def _optimal_predictor() -> Setting:
    """App. J.2."""
    changes = _HARD_COPY | {
        "network.predictor.kind": "optimal_linear",
        "network.projector.output_size": 16,
    }
    return "tau 0, optimal linear predictor of each batch, projection of size 16", changes


# ---------------------------------------------------------------- SimCLR


def _strength(strength: float) -> dict[str, float]:
    """The largest changes of SimCLR's colour distortion (SimCLR App. A)."""
    jitter = {f"{name}_max": 0.8 * strength for name in ("brightness", "contrast", "saturation")}
    return jitter | {"hue_max": 0.2 * strength}


def _distortion(column: str) -> Setting:
    """SimCLR Table 1."""
    strength, _, blur = column.partition(" ")
    if strength == "AutoAug":
        # "does not work better than simple cropping + (stronger) color distortion"
        return "AutoAugment", _views(autoaugment=1.0, color_jitter=0.0, grayscale=0.0, blur=0.0)
    above, _, below = strength.partition("/")
    changes = _views(**_strength(int(above) / int(below or 1)), blur=0.5 if blur else 0.0)
    return f"color distortion of strength {column}", changes


def _flips(flips: str) -> Setting:
    """SimCLR App. A."""
    return ("random flips", {}) if flips == "Yes" else ("no random flips", _views(flip=0.0))


_LOSSES = {"Margin": "margin_triplet", "NT-Logi.": "nt_logistic", "NT-Xent": "nt_xent"}


def _loss(column: str) -> Setting:
    """SimCLR Table 4."""
    loss, _, semi_hard = column.partition("(")
    objective = _LOSSES[loss.strip()]
    changes: Changes = {"objective.name": objective}
    if objective == "nt_xent":
        # Footnote 8: negatives of one augmentation view, for all losses of this table.
        changes["objective.nt_xent.same_view"] = False
    else:
        changes[f"objective.{objective}.semi_hard"] = bool(semi_hard)
    name = loss.strip().replace("Logi.", "Logistic")
    return name + (", semi-hard" if semi_hard else ""), changes


def _temperature(l2: str, temperature: str) -> Setting:
    """SimCLR Table 5."""
    changes: Changes = {
        "objective.nt_xent.l2": l2 == "Yes",
        "objective.nt_xent.temperature": float(temperature),
    }
    return f"{'cosines' if l2 == 'Yes' else 'dot products'}, temperature {temperature}", changes


_SCALINGS: Mapping[str, Changes] = {
    "linear": {"optimizer.rate_scaling": "linear"},
    "sqrt": {
        "optimizer.rate_scaling": "sqrt",
        "optimizer.base_learning_rate": Times(0.075, 0.3, root_of_batch=4096),
    },
}


def _scaled(batch: str, epochs: str, scaling: str) -> Setting:
    """SimCLR Table B.1."""
    changes = _SCALINGS[scaling] | {
        "batch_size": Times(int(batch), 4096),
        "num_epochs": Times(int(epochs), 100),
    }
    return f"batch size {batch}, {epochs} epochs, {scaling} scaling of the rate", changes


def _by_scaling(rows: Sequence[papers.Cells]) -> Iterator[list[str]]:
    """The lines of SimCLR Table B.1, whose cells have a number per scaling of the rate."""
    for batch, epochs, cell in papers.grid(rows):
        for scaling, value in zip(_SCALINGS, cell.split(" / "), strict=True):
            yield [batch, epochs, scaling, value]


# Figure 5's transformations in its order. Color distortion and blur keep their probabilities of
# SimCLR App. A, and a crop is "always followed by a random horizontal flip" of 50 % (App. A). The
# others have no printed probability and are always applied.
_TRANSFORMATIONS: Mapping[str, Mapping[str, float]] = {
    "crop": {"crop": 1.0, "flip": 0.5},
    "cutout": {"cutout": 1.0},
    "color": {"color_jitter": 0.8, "grayscale": 0.2, **_strength(1.0)},
    "sobel": {"sobel": 1.0},
    "noise": {"noise": 1.0},
    "blur": {"blur": 0.5},
    "rotate": {"rotate": 1.0},
}
_PAIRS = list(itertools.product(_TRANSFORMATIONS, repeat=2))


def _pair(first: str, second: str) -> Setting:
    """SimCLR Figure 5."""
    both = {**_TRANSFORMATIONS[first], **_TRANSFORMATIONS[second]}
    branch = {f"augment.view1.{name}": value for name, value in both.items()}
    nothing = _views(flip=0.0, **_NO_COLOR, **_NO_BLUR)
    changes: Changes = {"data.same_crop": True, **nothing, **branch}
    return (f"{first} alone" if first == second else f"{first} with {second}"), changes


# Figure 8's heads. The sizes are the axis of the picture; h itself has 2048.
_HEADS = [
    ("none", ""),
    *itertools.product(("linear", "mlp"), ("32", "64", "128", "256", "512", "1024", "2048")),
]


def _head(kind: str, size: str) -> Setting:
    """SimCLR Figure 8."""
    changes: Changes = {"network.projector.kind": kind}
    if kind == "none":
        return "no projection head", changes | {"network.projector.output_norm": "none"}
    word = {"linear": "linear", "mlp": "nonlinear"}[kind]
    changes["network.projector.output_size"] = int(size)
    return f"{word} projection head of size {size}", changes


# ---------------------------------------------------------------- what the papers leave open

# A stop-gradient without negatives, which is tau 0 at a predictor rate of 1.
_STOPPED = "5.5 in Tables 19 and 21, 3.2 +- 2.9 in Table 22, 0.3 in Table 5a"
_BASELINE_SIMCLR = (
    "69.4 in Tables 5b and 19, 69.2 in App. G.5; BYOL's projector, without BatchNorm behind its "
    "output, which G.5 does not list as a change"
)
_CONSTANT = (
    "the constant target is the initial online network (pseudo-code J.5); "
    "--config.target_init=released draws another; the random network itself has 1.4 (section 3)"
)
_NO_TARGET = "69.1 in Table 5b, 69.0 in Table 19"
_TWICE = "printed twice: 70.2 in row 4, 70.1 in row 6"
_CHANCE = "0.1, chance; 0.01 for collapsed networks in App. J.1 and Table 21"
_HIGHER = "section 5 has 66.5 for a higher rate"
_FACTOR = 'no factor is printed, this one is our choice; "higher than 72% top-1 accuracy"'
_ONE_HUNDRED = "the same recipe has 64.5 in Table 1, 64.4 in Table 5, 64.6 and 64.5 in Table B.1"
# SimCLR App. B.10.
_MARGIN = (
    "the best of rates 0.01 to 1 and margins 0, 0.4, 0.8, 1.6, not named: here the recipe's rate "
    "and margin 0.4"
)
_LOGISTIC = (
    "the best of rates 0.01 to 1 and temperatures 0.1, 0.2, 0.5, 1, not named: here those of the "
    "recipe"
)
_PICTURE = "its value is in a picture"


def _figure_5_notes() -> Iterator[str]:
    for first, second in _PAIRS:
        # The paper applies them "sequentially"; here the order is that of byol_jax/augment.
        mirrored = f"; the run of row {_PAIRS.index((second, first)) + 1}"
        yield _PICTURE + (mirrored if first != second else "")


# By table and row.
_NOTES: Mapping[str, Mapping[int, str]] = {
    "5a": {1: _CONSTANT, 5: _STOPPED},
    "5b": {4: _BASELINE_SIMCLR, 5: _NO_TARGET},
    "16": {7: "section 5 ends its sweep at 128"},
    "19": {
        **dict.fromkeys((4, 6), _TWICE),
        **{5: _BASELINE_SIMCLR, 8: _NO_TARGET, 9: _STOPPED},
        **dict.fromkeys((12, 13), _CHANCE),
    },
    "20": {
        2: "n_LN; the text of App. G.6 says n_BN",
        3: "n_ID; the text of App. G.6 says n_LN",
        4: "n_BN; the text of App. G.6 says n_ID",
    },
    "21": {
        1: "0.01 in Table 21 and App. J.1, below chance; collapsed networks have 0.1 in Table 19",
        2: _STOPPED,
        3: "62.8 +- 1.5 in Table 21, 60.8 +- 2.9 in Table 22",
        4: f"66.6 in Table 21, 66.9 in Table 22; {_HIGHER}",
        5: _HIGHER,
    },
    "22": {
        1: _STOPPED,
        3: "60.8 +- 2.9 in Table 22, 62.8 +- 1.5 in Table 21",
        5: f"66.9 in Table 22, 66.6 in Table 21; {_HIGHER}",
        19: "20.5 +- 2.0 here; section 5 has about 25 for raising both rates",
    },
    "G": {
        **dict.fromkeys((1, 2), _FACTOR),
        3: '"leads to network divergence" (App. G), "may lead to unstable results" (Table 15)',
    },
    "J.2": {1: "50.3 in App. J.2, 52.5 in section 5"},
    "simclr-1": {
        5: _ONE_HUNDRED,
        6: "in place of color distortion and blur; crop and flip stay",
    },
    "simclr-4": {
        **dict.fromkeys((1, 3), _MARGIN),
        **dict.fromkeys((2, 4), _LOGISTIC),
        5: f"negatives of one view (footnote 8); with those of both {_ONE_HUNDRED}",
    },
    "simclr-5": {2: _ONE_HUNDRED},
    "simclr-B.1": dict.fromkeys(range(33, 41), "at batch 4096 both scalings are one rate"),
    "simclr-figure5": dict(enumerate(_figure_5_notes(), start=1)),
    "simclr-figure8": dict.fromkeys(
        range(1, len(_HEADS) + 1),
        f"{_PICTURE}; section 4.2: nonlinear is 3 better than linear and more than 10 better than "
        "none, at every size",
    ),
}

# ---------------------------------------------------------------- the tables


def _of_method(rows: Sequence[papers.Cells], method: int) -> list[list[str]]:
    """The lines of one method of two whose numbers are printed side by side, as in Table 16."""
    return [[name, *values[method::2]] for name, *values in rows]


def _columns(rows: Sequence[papers.Cells]) -> list[list[str]]:
    """The columns of a table as lines."""
    return [[*cells] for cells in zip(*rows, strict=True)]


def _of_byol() -> Iterator[Table]:
    yield Table("5a", _target, _BYOL["Table 5a"])
    yield Table("5b", _between_without_stop, _BYOL["Table 5b"])
    yield Table("14a", _depths, [*papers.filled(_BYOL["Table 14a"])], TOP1_TOP5)
    yield Table("14b", _projection_size, _BYOL["Table 14b"], TOP1_TOP5)
    yield Table("15a", _rate, _BYOL["Table 15a"], TOP1_TOP5)
    yield Table("15b", _decay, _BYOL["Table 15b"], TOP1_TOP5)
    for key, setting in (("16", _batch_size), ("17", _augmentation)):
        for method, recipe in enumerate(("byol", "simclr_repro")):
            lines = _of_method(_BYOL[f"Table {key}"], method)
            yield Table(key, setting, lines, TOP1_TOP5, recipe)
    yield Table("18", _negatives, [*papers.filled(_BYOL["Table 18"])], TOP1_TOP5)
    yield Table("19", _between, _BYOL["Table 19"])
    yield Table("20", _normalization, _BYOL["Table 20"], TOP1_TOP5)
    yield Table("21", _predictor_rate, _BYOL["Table 21"])
    yield Table("22", _head_rates, [*papers.grid(_BYOL["Table 22"])])
    yield Table("G", _initial_weights, [["0.5"], ["2"]], metrics=())
    for recipe in ("byol", "simclr_repro"):
        yield Table("G", _no_weight_decay, [[]], metrics=(), recipe=recipe, first=3)
    yield Table("J.2", _optimal_predictor, [["50.3"]])


def _of_simclr() -> Iterator[Table]:
    strengths, of_simclr, _ = _SIMCLR["Table 1"]
    lines = _columns([strengths[1:], of_simclr[1:]])
    yield Table("simclr-A", _flips, _SIMCLR["App. A"], recipe="simclr")
    yield Table("simclr-1", _distortion, lines, recipe="simclr")
    yield Table("simclr-4", _loss, _columns(_SIMCLR["Table 4"]), recipe="simclr")
    metrics = ("contrastive_entropy", "contrastive_top1", "top1")
    lines = [*papers.filled(_SIMCLR["Table 5"])]
    yield Table("simclr-5", _temperature, lines, metrics, recipe="simclr")
    yield Table("simclr-B.1", _scaled, [*_by_scaling(_SIMCLR["Table B.1"])], recipe="simclr")
    yield Table("simclr-figure5", _pair, _PAIRS, metrics=(), recipe="simclr")
    yield Table("simclr-figure8", _head, _HEADS, metrics=(), recipe="simclr")


# The rows of each table, in its order.
TABLES = build(
    table._replace(notes=_NOTES.get(table.key, table.notes))
    for table in itertools.chain(_of_byol(), _of_simclr(), lecture.ablations())
)
