"""Strict YACS configuration: shared keys here, every other key beside the component that reads it."""

from ssl_loc.config.configurable import construct
from ssl_loc.config.defaults import base_cfg
from ssl_loc.config.fragments import register_config
from ssl_loc.config.node import CfgNode

__all__ = ["CfgNode", "base_cfg", "construct", "register_config"]
