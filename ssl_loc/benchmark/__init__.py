"""Benchmark programs: rows {name, value, unit, baseline, goal, holds}, ratios inside one run."""
