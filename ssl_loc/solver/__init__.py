"""Optimisers, parameter groups and learning-rate schedules."""

from ssl_loc.solver import lars  # registers
from ssl_loc.solver.build import OPTIMIZER_REGISTRY, build_optimizer
from ssl_loc.solver.schedules import Schedule, build_schedule, scaled_lr

__all__ = ["OPTIMIZER_REGISTRY", "Schedule", "build_optimizer", "build_schedule", "lars", "scaled_lr"]
