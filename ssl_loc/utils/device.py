"""Which device a process computes on."""

from __future__ import annotations

import os

import torch

from ssl_loc.utils.errors import ConfigError, check_choice

DEVICES = ("auto", "cpu", "cuda")


def wants_cuda(name: str) -> bool:
    """True if ``DEVICE`` = ``name`` means the GPU on this machine.

    Raises:
        ConfigError: unknown name, or "cuda" on a machine without a usable GPU.
    """
    check_choice("DEVICE", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("DEVICE is 'cuda' but torch finds no usable GPU here; set DEVICE cpu, or auto for either")
    return name != "cpu" and torch.cuda.is_available()


def choose_device(name: str) -> torch.device:
    """Device of this process: the GPU of its local rank (``LOCAL_RANK``, as torchrun sets it), or the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if wants_cuda(name) else torch.device("cpu")


def wants_bf16(precision: str) -> bool:
    """Mixed precision where it is faster: ``precision`` "bf16", or "auto" on a GPU or a CPU with bf16 instructions."""
    if precision != "auto":
        return precision == "bf16"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.cuda.is_available() or bool(supported())


def cpu_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
