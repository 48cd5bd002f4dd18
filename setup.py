"""Packaging of ssl_loc. Imports nothing but setuptools, so it builds on a bare machine."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "ssl_loc" / "__init__.py").read_text()).group(1)

# Lower bounds only: an upper pin decides who can still install this in two years.
REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "yacs>=0.1.8",
    "pycocotools>=2.0.7",
    "numpy>=1.24",
    "pillow>=10.0",
    "opencv-python-headless>=4.8",
    "tabulate>=0.9",
    "tqdm>=4.64",
    "tensorboard>=2.12",
    "matplotlib>=3.7",
    "scipy>=1.10",
    "scikit-learn>=1.3",
    # Compiles the superpixels and graph distances of the saliency estimators.
    "numba>=0.59",
    # One BLAS thread per worker process: small solves are slower on many.
    "threadpoolctl>=3.1",
]
EXTRAS = {
    # libjpeg-turbo binding: decodes JPEG about 1.2 x faster than OpenCV; never required.
    "fast": ["simplejpeg>=1.6"],
    # tools/export_backbone.py --format safetensors.
    "export": ["safetensors>=0.4"],
    # MODEL.BACKBONE.NAME TimmBackbone.
    "timm": ["timm>=1.0"],
    "dev": [
        "pytest>=7.4",
        "pytest-xdist>=3.3",
        "hypothesis>=6.80",
        "safetensors>=0.4",
        "ruff>=0.5",
        "mypy>=1.8",
        "import-linter>=2.0",
    ],
}

setup(
    name="ssl_loc",
    version=VERSION,
    description="Localization-aware self-supervised pretraining on scene photos, with verified detection transfer",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ssl_loc", "ssl_loc.*"]),
    package_data={"ssl_loc": ["py.typed"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
