"""A vendor's whole conformance test is one import, in a file that pytest collects
(``tests/test_conformance.py``):

    from kevolve_core.testing.conformance import *  # noqa: F403

    $ pytest --kevolve-backend acme --kevolve-tier 0

Every check of the tier becomes one test, ``test_conformance[compile.error]``; see
`kevolve_core.testing.plugin` for the options and the marks.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["test_conformance"]


def test_conformance(kevolve_check: Callable[[], None]) -> None:
    """The backend meets one requirement of the plugin contract."""
    kevolve_check()
