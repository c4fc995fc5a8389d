"""The command line: ``lrp-hooks``. Commands import what they need when they run, so ``--help`` is quick."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Our own errors end with one clear line and status 2; an interrupt with 130."""
    from lrp_hooks.cli.app import app
    from lrp_hooks.errors import LrpError

    try:
        app()
    except LrpError as error:
        from rich.console import Console

        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
