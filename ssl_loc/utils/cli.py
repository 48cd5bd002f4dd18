"""What every tool does around its ``main``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ssl_loc.utils.errors import UserError

# Exit status of a run that stopped because of what the user gave (argparse uses the same).
USER_ERROR_STATUS = 2


def run_tool(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit with its status; a :class:`UserError` becomes one sentence on stderr, status 2.

    So does an :class:`OSError` that names a file (no such folder, no permission, disk full): the file is the user's.
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)
    except OSError as error:
        if error.filename is None:
            raise
        reason = error.strerror or type(error).__name__
        print(f"error: cannot use {error.filename}: {reason}; check the path and its permissions", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)
    sys.exit(status or 0)
