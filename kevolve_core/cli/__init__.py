"""The command line: `kevolve`. It adds nothing that `kevolve_core` does not offer from Python."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 the answer is no (candidate rejected, not reproduced, nothing ready), 2 the user's
    mistake, 70 a fault of Kevolve, 130 interrupted.
    """
    from kevolve_core.cli.app import run

    sys.exit(run(arguments))
