"""The training loop: one program for one process, many processes, CPU and GPU."""

from ssl_loc.engine.launch import launch
from ssl_loc.engine.run import train

__all__ = ["launch", "train"]
