"""Runs and trunks on disk: plain tensors and plain values, atomic, and checked when they are read."""

from ssl_loc.checkpoint.backbone_export import BackboneFile, export_backbone, load_backbone
from ssl_loc.checkpoint.checkpointer import Checkpointer, load_checkpoint, method_state

__all__ = ["BackboneFile", "Checkpointer", "export_backbone", "load_backbone", "load_checkpoint", "method_state"]
