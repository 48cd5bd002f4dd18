"""What this run ran on: versions, device, threads. Written beside every run and into every benchmark."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from ssl_loc import __version__

# Distributions whose version can change a number or a file of ours.
_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "simplejpeg",
    "fvcore",
    "scikit-learn",
    "scipy",
    "pycocotools",
    "detectron2",
)


def package_version(name: str) -> str:
    """Version of an installed distribution, or "absent"; does not import it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def versions() -> dict[str, str]:
    """The versions that travel inside checkpoints and exported weights."""
    return {"ssl_loc": __version__, "python": platform.python_version(), **{n: package_version(n) for n in _PACKAGES}}


def collect_env_dict() -> dict[str, Any]:
    """Versions, git state, device, threads and memory as plain values."""
    report: dict[str, Any] = {f"version/{name}": value for name, value in versions().items()}
    report["git"] = git_state()
    report["platform"] = platform.platform()
    report["cpu"] = cpu_name()
    report["cpu count"] = os.cpu_count()
    report["torch threads"] = torch.get_num_threads()
    report["torch interop threads"] = torch.get_num_interop_threads()
    report["cpu capability"] = torch.backends.cpu.get_cpu_capability()
    report["cuda available"] = torch.cuda.is_available()
    if torch.cuda.is_available():
        report["cuda runtime"] = torch.version.cuda
        report["cudnn"] = torch.backends.cudnn.version()
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            report[f"gpu {i}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}"
        report["matmul tf32"] = torch.backends.cuda.matmul.allow_tf32
        report["conv tf32"] = torch.backends.cudnn.allow_tf32
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SSL_LOC_DATASETS"):
        report[f"env/{name}"] = os.environ.get(name, "unset")
    return report


def collect_env() -> str:
    """:func:`collect_env_dict` as aligned text."""
    report = collect_env_dict()
    width = max(map(len, report))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in report.items())


def cpu_name() -> str:
    """Model name of the processor where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_state() -> str:
    """Commit of the checkout this package runs from, with "+changes" where it is not clean; "no checkout" otherwise."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "no checkout"
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return commit + ("+changes" if changed else "")


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
