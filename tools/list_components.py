#!/usr/bin/env python
"""Print every registered part (name, what it is in one line, its file), or which of them work together."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ssl_loc.compatibility import Matrix
from ssl_loc.compatibility.tables import FORMATS, render
from ssl_loc.components import get_cfg, load_components
from ssl_loc.config.node import import_part
from ssl_loc.data.catalog import path_form_usage, resolve_path_form
from ssl_loc.saliency.build import load_estimators
from ssl_loc.transfer.build import load_engines
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.errors import ConfigError, did_you_mean
from ssl_loc.utils.registry import Registry

EXAMPLES = """
examples:
  python tools/list_components.py                   # everything
  python tools/list_components.py METHOD LOSS       # some registries
  python tools/list_components.py METHOD --imports projects/DenseCL/dense_cl.py    # with a project's parts
  python tools/list_components.py --matrix          # which method, augmenters and losses work together, and why not
  python tools/list_components.py --matrix --format csv > mixtures.csv                   # a row per mixture
  python tools/list_components.py --matrix --set MODEL.BACKBONE.NAME AlexNetBN           # at other settings

A name goes into a yaml (MODEL.METHOD, LOSS.NAMES, AUGMENT.VIEWS, DATA.TRAIN, ...) or onto a tool's command line
(--protocol, --engine).
"""
# Rooms that register parts which pretraining does not need.
EXTRA_ROOMS = ("ssl_loc.data.map_commands", "ssl_loc.evaluation")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("registries", nargs="*", metavar="REGISTRY", help="only these, e.g. METHOD (default: all)")
    parser.add_argument("--imports", nargs="+", default=[], metavar="FILE", help="project files to read first")
    parser.add_argument("--matrix", action="store_true", help="mixtures of a method, augmenters and losses")
    parser.add_argument("--format", default="table", choices=FORMATS, help="of the matrix (default: table)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY VALUE", dest="options", help="config of the matrix"
    )
    args = parser.parse_args()
    if args.matrix and args.registries:
        parser.error("--matrix shows all methods, augmenters and losses; give no REGISTRY")
    if not args.matrix and (args.options or args.format != "table"):
        parser.error("--set and --format belong to --matrix")
    return args


def registries() -> dict[str, Registry]:
    """Every registry of the package by name; a new one is found without being listed here."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("ssl_loc.")]
    values = (value for module in modules for value in vars(module).values())
    found = {value._name: value for value in values if isinstance(value, Registry)}
    return dict(sorted(found.items()))


def describe(registry: str, name: str, part: Any) -> str:
    """First line of the part's docstring; for datasets the path form behind the name."""
    if registry == "DATASET" and resolve_path_form(name) != name:
        return resolve_path_form(name)
    doc = (inspect.getdoc(part) or "").strip().splitlines()
    usage = f"{path_form_usage(name)}: " if registry == "DATASET_SCHEME" else ""
    return usage + (doc[0] if doc else "")


def where(part: Any) -> str:
    """File of the part, relative to the working directory where it is below it."""
    file = Path(inspect.getsourcefile(inspect.unwrap(part)) or "?").resolve()
    return str(file.relative_to(Path.cwd())) if Path.cwd() in file.parents else str(file)


def main() -> None:
    args = parse_args()
    load_components()
    for name in args.imports:
        import_part(name, Path.cwd(), "--imports")
    if args.matrix:
        cfg = get_cfg()
        cfg.merge_from_list(args.options)
        print(render(Matrix(cfg), args.format), end="")
        return
    load_engines()
    load_estimators()
    for room in EXTRA_ROOMS:
        importlib.import_module(room)
    tables = registries()
    wanted = [name.upper() for name in args.registries] or list(tables)
    for name in wanted:
        if name not in tables:
            raise ConfigError(f"no registry is called {name}{did_you_mean(name, tables)} Known: {', '.join(tables)}")
        rows = [(key, describe(name, key, part), where(part)) for key, part in tables[name]]
        print(f"\n{name}")
        print(tabulate(rows, tablefmt="plain", maxcolwidths=[None, 88, None]) if rows else "  (none)")
    print()


if __name__ == "__main__":
    run_tool(main)
