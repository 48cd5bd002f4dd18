"""``--imports``: project files that a tool without a training config reads first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ssl_loc.config.node import import_part


def imports_option(argv: list[str] | None = None) -> argparse.ArgumentParser:
    """A parent parser (``ArgumentParser(parents=[...])``) with ``--imports``, whose parts are imported right here.

    So the tool's own parser may list what they register among its choices.

    Args:
        argv: the command line; None = that of the process.

    Raises:
        ConfigError: a file or module that is not there.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--imports", nargs="+", default=[], metavar="FILE", help="project files (or module names) to read first"
    )
    given, _ = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    for name in given.imports:
        import_part(name, Path.cwd(), "--imports")
    return parser
