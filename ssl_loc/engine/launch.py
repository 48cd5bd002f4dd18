"""Processes: this one, those torchrun started, or some spawned here."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ssl_loc.engine.signals import listen_to_parent
from ssl_loc.utils import comm
from ssl_loc.utils.cli import USER_ERROR_STATUS
from ssl_loc.utils.device import choose_device, wants_cuda
from ssl_loc.utils.errors import ConfigError, UserError

# How long processes wait for each other before they give up with a message instead of hanging.
TIMEOUT = timedelta(minutes=15)
# How often the parent looks after its children.
_POLL_SECONDS = 0.5
_logger = logging.getLogger(__name__)


def launch(main: Callable[[], Any], num_processes: int = 0, device: str = "auto") -> Any:
    """Run ``main`` in every process of the run and return what it returned in process 0 (elsewhere: this process).

    Under torchrun (``RANK`` and ``WORLD_SIZE`` in the environment) this process joins the group. Otherwise
    ``num_processes`` > 1 spawns that many: one per GPU (nccl), or on the CPU where ``device`` says so or there is no
    GPU (gloo). ``main`` must then be picklable and return plain values.

    Raises:
        UserError: raised by ``main`` in any process, or the processes cannot be brought together.
    """
    if num_processes < 0:
        raise ConfigError(f"--num-gpus is {num_processes}; expected 1 or more (0: as torchrun says, else one process)")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_as_member(main, num_processes, device)
    cuda = wants_cuda(device)
    if num_processes <= 1:
        return main()
    if cuda and num_processes > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus is {num_processes} but this machine has {torch.cuda.device_count()}; give fewer, or DEVICE cpu"
        )
    return _spawn(main, num_processes, device)


def roll_call(device: torch.device) -> None:
    """The first collective: process 0 logs who arrived."""
    if not comm.is_distributed():
        return
    me = f"{comm.get_rank()}: {socket.gethostname()} pid {os.getpid()} {device}"
    arrived = comm.all_gather_object(me)
    backend = f"{dist.get_backend()}, {torch.get_num_threads()} threads each"
    _logger.info("%d processes arrived (%s): %s", len(arrived), backend, "; ".join(arrived))


def _run_as_member(main: Callable[[], Any], num_processes: int, device: str) -> Any:
    world = int(os.environ["WORLD_SIZE"])
    if num_processes not in (0, world):
        raise ConfigError(
            f"--num-gpus is {num_processes} but torchrun started {world} processes; leave --num-gpus out under torchrun"
        )
    _join_group(int(os.environ["RANK"]), world, device, "env://")
    try:
        return main()
    finally:
        _leave_group()


def _join_group(rank: int, world: int, device: str, init_method: str) -> None:
    where = choose_device(device)
    if where.type == "cuda":
        if where.index >= torch.cuda.device_count():
            raise ConfigError(
                f"process {rank} has local rank {where.index} but this machine has {torch.cuda.device_count()} GPUs; "
                "start at most that many processes here (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=world, timeout=TIMEOUT)
    except dist.DistError as error:
        place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise UserError(
            f"process {rank} of {world} could not meet the others at {place} within {TIMEOUT} "
            f"({str(error).splitlines()[0]}); check that every machine runs the same command with its own --node-rank, "
            "and that this address and port are open"
        ) from None


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _spawn(main: Callable[[], Any], count: int, device: str) -> Any:
    context = mp.get_context("spawn")
    stop, results = context.Value("i", 0), context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="ssl_loc_") as folder:
        arguments = (main, count, device, f"file://{folder}/meet", stop, results)
        children = mp.start_processes(_child, arguments, nprocs=count, join=False, start_method="spawn")
        before = _forward_signals(stop, children.processes)
        said: list[tuple[str, Any]] = []
        try:
            while not children.join(timeout=_POLL_SECONDS):
                _drain(results, said)
        except mp.ProcessExitedException:
            # A child that stopped for a reason meant for the user has left it in the queue.
            _drain(results, said)
            if not said:
                raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        _drain(results, said)
    for kind, value in said:
        if kind == "error":
            raise UserError(value)
    return said[0][1]


def _drain(results: Any, said: list[tuple[str, Any]]) -> None:
    """Read while the children run: a full pipe would stop them from ending."""
    while not results.empty():
        said.append(results.get())


def _forward_signals(stop: Any, processes: list[Any]) -> dict[int, Any]:
    """Tell the children by ``stop`` what signal arrived here; a second Ctrl-C kills them."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.value and number == signal.SIGINT:
            for process in processes:
                process.kill()
            raise KeyboardInterrupt
        stop.value = number
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: finishing the step and writing a checkpoint (Ctrl-C again quits at once)\n".encode())

    return {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}


def _child(
    rank: int, main: Callable[[], Any], world: int, device: str, init_method: str, stop: Any, results: Any
) -> None:
    listen_to_parent(stop)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    try:
        if not wants_cuda(device):
            # As many threads as the processes together can use; otherwise each takes all cores.
            torch.set_num_threads(max(1, torch.get_num_threads() // world))
        _join_group(rank, world, device, init_method)
        value = main()
    except UserError as error:
        results.put(("error", str(error)))
        sys.exit(USER_ERROR_STATUS)
    if rank == 0:
        results.put(("value", value))
    _leave_group()
