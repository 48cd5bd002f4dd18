"""Runs and trunks on disk: plain tensors and plain values, atomic, and checked when they are read."""

from ssl_loc.checkpoint.backbone_export import export_backbone
from ssl_loc.checkpoint.backbone_file import BackboneFile, load_backbone
from ssl_loc.checkpoint.backbone_source import read_backbone
from ssl_loc.checkpoint.checkpointer import Checkpointer, load_checkpoint, method_state

__all__ = [
    "BackboneFile",
    "Checkpointer",
    "export_backbone",
    "load_backbone",
    "load_checkpoint",
    "method_state",
    "read_backbone",
]
