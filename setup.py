"""Packaging of byol_jax: what it needs, in ranges; requirements.lock pins what CI runs."""

import ast
import pathlib

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent


def version() -> str:
    """The `__version__` of byol_jax, read without importing it (its imports may not exist yet)."""
    tree = ast.parse((ROOT / "byol_jax" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise RuntimeError("byol_jax/__init__.py must assign a literal __version__")


def long_description() -> str:
    """The README, where there is one: a source archive may leave it out."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


PAGES = setuptools.find_packages(include=["experiments", "experiments.*"])

ONNX = ["onnx>=1.17"]
NYU = ["h5py>=3.11"]
TEST = ["pytest>=8.3", "pytest-xdist>=3.6.1", *ONNX, *NYU, "onnxruntime>=1.20"]
DEV = [*TEST, "ruff>=0.15", "mypy>=1.19", "import-linter>=2.7"]

setuptools.setup(
    name="byol_jax",
    version=version(),
    description="BYOL (Bootstrap Your Own Latent, arXiv:2006.07733) in JAX and Haiku",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The byol_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[
        *setuptools.find_packages(include=["byol_jax", "byol_jax.*"]),
        *(f"byol_jax.pages.{name}" for name in PAGES),
    ],
    # The pages are installed inside the package: `experiments` is too common a name for the top of
    # site-packages.
    package_dir={"byol_jax.pages.experiments": "experiments"},
    package_data={
        "byol_jax": ["py.typed"],
        "byol_jax.results": ["report.html.jinja"],
        "byol_jax.pages.experiments.papers": ["*.txt"],
    },
    entry_points={"console_scripts": ["byol = byol_jax.main:run"]},
    python_requires=">=3.11",
    # jax 0.10.2 is the last release for Python 3.11; later ones need 3.12.
    install_requires=[
        "absl-py>=2.3.1",
        "chex>=0.1.91",
        "dm-haiku>=0.0.16",
        # TFDS imports it when it prepares a set, and does not declare it.
        "importlib_resources>=6",
        "jinja2>=3.1.4",
        "jax>=0.10.2",
        "jaxlib>=0.10.2",
        "jmp>=0.0.4",
        "markupsafe>=2.1",
        "matplotlib>=3.11",
        "ml_collections>=1.0",
        "numba>=0.68",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.33",
        "pillow>=11",
        "pyarrow>=21",
        "safetensors>=0.5",
        "scikit-learn>=1.8",
        "scipy>=1.15",
        "tensorboardX>=2.6.2.2",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.67",
    ],
    extras_require={
        # One wheel set per platform: what `jax[tpu]` and `jax[cuda12]` mean is jax's decision.
        # With libtpu, which --preflight needs without a TPU, too.
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda12]>=0.10.2"],
        "cuda13": ["jax[cuda13]>=0.10.2"],
        # Exports as ONNX files.
        "onnx": ONNX,
        # NYU Depth v2 as its authors give it.
        "nyu": NYU,
        # Shows what runs write; they write it without.
        "tensorboard": ["tensorboard>=2.20"],
        "test": TEST,
        "dev": DEV,
    },
)
