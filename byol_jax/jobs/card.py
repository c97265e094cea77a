"""README.md of an exported folder: what the network is, its numbers, and how it is loaded."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from byol_jax.augment import byol
from byol_jax.data.folder import parts_of, with_labels
from byol_jax.errors import require
from byol_jax.results import measures, tables
from byol_jax.results.records import Record
from byol_jax.weights import hub, stablehlo
from byol_jax.weights.trained import UNKNOWN_LICENCE, Trained

# Licences as model hubs write them. Any other one is `other` there, with its name beside it.
_LICENCES = (
    *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "mit", "cc0-1.0", "gpl-3.0"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
# Names of TFDS, and how hubs call the same set.
_DATASETS = {"tfds:imagenet2012": "imagenet-1k", "tfds:cifar10": "cifar10"}
# Methods that learn from labels.
_WITH_LABELS = ("supervised", "supcon")
# What stands for the place of the folder.
_FOLDER = "FOLDER"


class Licence(NamedTuple):
    """The terms of the weights.

    Attributes:
      identifier: as model hubs write it; `unknown` if there are none, or nobody knows them.
      sentence: the terms in words.
    """

    identifier: str
    sentence: str


def _identifier(licence: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")


def licence_of(trained: Trained, given: str | None) -> Licence:
    """The terms of exported weights.

    Args:
      trained: the checkpoint, which may have been made from other people's weights.
      given: the user's own word.

    Raises:
      UserError: the weights have terms, and the user gives others.
    """
    terms = None if trained.licence == UNKNOWN_LICENCE else trained.licence
    require(
        not given or not terms or _identifier(given) == _identifier(terms),
        f"config.licence={given} contradicts the terms of these weights, which are of "
        f"{trained.origin}: {terms}; leave it out",
    )
    licence = given or terms
    whose = f"The weights are of, or were trained from those of: {trained.origin}. "
    if not licence:
        sentence = (
            whose + "Their terms are unknown: ask their authors."
            if trained.licence
            else "The owner of the weights has not chosen a licence: nobody else may use them yet."
        )
        return Licence("unknown", sentence)
    said = "" if terms else ", as the one who exported them says"
    origin = whose if trained.origin else ""
    return Licence(_identifier(licence), f"{origin}The weights: {licence}{said}.")


def _set_name(dataset: str | None) -> str:
    """A data set in words, without the folders above it."""
    if not dataset:
        return "not known"
    kind, _, path = dataset.partition(":")
    if kind not in ("folder", "npz"):
        return dataset
    path, table = parts_of(path) if kind == "folder" else (path, None)
    name = f"{kind}:{path.rstrip('/').rpartition('/')[2]}"
    return with_labels(name, table.rpartition("/")[2]) if table else name


def _front_matter(trained: Trained, licence: Licence) -> list[str]:
    """YAML for model hubs."""
    known = licence.identifier in (*_LICENCES, "unknown")
    method = trained.method
    tags = [*([method] if method else []), "resnet", "jax"]
    if method and method not in _WITH_LABELS:
        tags.insert(0, "self-supervised-learning")
    dataset = _DATASETS.get(trained.dataset or "")
    return [
        "---",
        f"license: {licence.identifier if known else 'other'}",
        *([] if known else [f"license_name: {licence.identifier}"]),
        f"library_name: {'pytorch' if hub.why_not_timm(trained.network) else 'timm'}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *(f"- {tag}" for tag in tags),
        *(["datasets:", f"- {dataset}"] if dataset else []),
        "---",
    ]


def _name(trained: Trained) -> str:
    spec = trained.network
    depth = "TinyResNet" if spec.depth == "tiny" else f"ResNet-{spec.depth}"
    width = "" if spec.width == 1 else f", width {spec.width:g}"
    return depth + width


def _facts(trained: Trained, name: str) -> list[str]:
    """What it is and where it is from."""
    spec = trained.network
    steps = f"{trained.step:,}" + (f" of {trained.total_steps:,}" if trained.total_steps else "")
    stem = "7x7 with stride 2, then a max-pool" if spec.stem == "imagenet" else "3x3 with stride 1"
    facts: Mapping[str, str] = {
        "network": f"{_name(trained)}, stem {stem}; the {name} network",
        "output": f"{hub.dim_of(spec)} numbers per image, before any head",
        "method": trained.method or "not known",
        "data set": _set_name(trained.dataset),
        "updates": steps if trained.step else "not known",
        "images": f"{trained.image_size} x {trained.image_size} pixels"
        + ("" if "job" in trained.config else ", as nothing else is known"),
        "recipe": trained.recipe or "not known",
        **({"origin": trained.origin} if trained.origin else {}),
    }
    return [
        f"# {_name(trained)}, an encoder of images",
        "",
        "Exported by byol_jax: BYOL ([arXiv:2006.07733](https://arxiv.org/abs/2006.07733)) and "
        "methods beside it, in JAX and Haiku.",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
    ]


def _numbers(records: Sequence[Record]) -> list[str]:
    """A table of the evaluations of this network."""
    if not records:
        return ["No evaluation of this checkpoint was found beside it."]
    has_paper = any("paper_value" in record.settings for record in records)
    header = ["protocol", "data set", "split", "examples", "metric", "value"]
    rows = [header + ["paper"] * has_paper]
    for record in records:
        metric = measures.title(record.metric, measures.of(record.metric, record.unit))
        row = [record.protocol, _set_name(record.dataset), record.split, str(record.n_examples)]
        row += [metric, tables.value_of(record)]
        rows.append(row + [str(record.settings.get("paper_value", "-"))] * has_paper)
    return tables.markdown(rows)


def _images(trained: Trained) -> list[str]:
    """How an image file becomes an input."""
    size = trained.image_size
    middle = f"the central {size} x {size} pixels are kept"
    crop = {
        "paper": f"the short side is resized to {round(size * 256 / 224)} pixels, {middle}",
        "full": f"the short side is resized to {size} pixels, {middle}",
        "released": f"the central square of 87.5 % of the short side is resized to {size} pixels",
    }[trained.cropping.eval_crop]
    return [
        f"RGB; {crop} (bicubic without antialiasing, as TensorFlow's default; Pillow's and "
        "torchvision's antialias, which is another picture and gives other features: "
        "`byol_resnet.prepare` does it right); values are rounded, divided by 255, then "
        f"(x - mean) / std with mean {[*byol.IMAGENET_MEAN]} and std {[*byol.IMAGENET_STD]}. "
        "config.json has these numbers."
    ]


def _padding(trained: Trained) -> list[str]:
    """The trap of SAME padding, in words."""
    spec = trained.network
    if spec.padding != "same":
        return ["Convolutions pad both sides alike, as PyTorch does."]
    stride = stablehlo.side_multiple(spec.stem)
    symmetric = hub.timm_size(spec, trained.image_size) if stride == 32 else stride * 4 + 1
    return [
        "Layers of stride 2 pad as TensorFlow's SAME does: at even sizes there is one row of zeros "
        "more at the bottom and on the right. PyTorch's own layers pad both sides alike. These "
        "weights in such a network give features that are some 5 to 17 % off and still look alike "
        "(cosines above 0.99): nothing fails, and the numbers are wrong. `byol_resnet.py` and "
        "every other file here pad as the network was trained, at any size that they take. At "
        f"sides of {stride} k + 1 pixels ({symmetric}) both paddings are the same.",
    ]


def snippets(trained: Trained, formats: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Lines of Python that load each format, by title."""
    dim = hub.dim_of(trained.network)
    nchw = f"# float32 [N, 3, H, W], normalised -> [N, {dim}]"
    nhwc = f"# float32 [N, H, W, 3], normalised -> [N, {dim}]"
    lines = {
        "PyTorch": [
            "import sys, torch  # pip install torch safetensors",
            f'sys.path.append("{folder}")',
            "import byol_resnet",
            f'encoder = byol_resnet.load("{folder}")',
            f'images = byol_resnet.prepare("{folder}", files)  {nchw}',
            "with torch.no_grad():",
            "    embeddings = encoder(images)",
        ]
    }
    if not hub.why_not_timm(trained.network):
        side = hub.timm_size(trained.network, trained.image_size)
        lines["timm"] = [
            "import timm",
            f'encoder = timm.create_model("local-dir:{folder}", pretrained=True).eval()',
            f"embeddings = encoder(images)  # at {side} x {side} pixels",
        ]
    if "onnx" in formats:
        lines["ONNX"] = [
            "import onnxruntime",
            f'session = onnxruntime.InferenceSession("{folder}/encoder.onnx")',
            f'(embeddings,) = session.run(None, {{"images": images}})  {nchw}',
        ]
    if "saved_model" in formats:
        lines["TensorFlow"] = [
            "import tensorflow as tf",
            f'encoder = tf.saved_model.load("{folder}/saved_model")',
            f'embeddings = encoder.embed(images)["embedding"]  {nhwc}',
        ]
    if "stablehlo" in formats:
        lines["JAX"] = [
            "from jax import export",
            f'content = open("{folder}/encoder.stablehlo", "rb").read()',
            "program = export.deserialize(bytearray(content))",
            f"embeddings = program.call(images)  {nhwc}",
        ]
    lines["byol_jax"] = [
        "import byol_jax",
        f'encode = byol_jax.load_encoder("{folder}")',
        "embeddings = encode(files)  # files, or uint8 [N, H, W, 3]; resizes, crops, normalises",
    ]
    return lines


def _loading(trained: Trained, formats: Sequence[str]) -> list[str]:
    """How each format is loaded, and where it ends."""
    lines = []
    for title, code in snippets(trained, formats, _FOLDER).items():
        lines += [f"{title}:", "```python", *code, "```"]
    reason = hub.why_not_timm(trained.network)
    if reason:
        lines += [f"timm cannot hold this network ({reason}): `byol_resnet.py` does.", ""]
    if "stablehlo" in formats:
        multiple = stablehlo.side_multiple(trained.network.stem)
        sides = (
            f"of {trained.image_size} x {trained.image_size} pixels"
            if trained.image_size % multiple
            else f"with sides that are multiples of {multiple} pixels"
        )
        lines += [f"The program for JAX takes any number of images {sides}.", ""]
    return lines[:-1] if not lines[-1] else lines


def text(
    trained: Trained,
    name: str,
    licence: Licence,
    records: Sequence[Record],
    formats: Sequence[str],
) -> str:
    """The model card.

    Args:
      trained: the checkpoint.
      name: the network that is exported, `online` or `target`.
      licence: its terms.
      records: evaluations of that network at that step.
      formats: what the folder holds.
    """
    sections = {
        "Numbers": _numbers(records),
        "Images": _images(trained),
        "Padding": _padding(trained),
        "Loading": _loading(trained, formats),
        "Licence": [f"{licence.sentence} The code in this folder: Apache-2.0."],
    }
    lines = [*_front_matter(trained, licence), "", *_facts(trained, name)]
    for title, content in sections.items():
        lines += ["", f"## {title}", *content]
    return "\n".join(lines) + "\n"
