"""What went wrong in a plugin, in words: an exception, a signal or a hang as a `Fault`."""

from __future__ import annotations

import os
import re
import signal
import traceback

from kevolve_core.errors import ConfigError, KevolveError, ToolchainMissingError, UnsupportedError
from kevolve_core.registry.compat import IncompatibleError
from kevolve_core.registry.status import Fault, PluginState

__all__ = ["death_fault", "exception_fault", "hang_fault"]

_DISABLE = "disable it in plugins.toml (enabled = false)"
_AGAIN = "then refresh with `kevolve plugins doctor`"

#: Characters of a trace that are kept; enough for the frames that matter (estimated).
_TRACE = 4000


def exception_fault(error: BaseException, doing: str) -> Fault:
    """The fault for what a plugin raised while ``doing`` (``importing``, ``probing backend 'x'``, …)."""
    trace = "".join(traceback.format_exception(error))[-_TRACE:]
    cause = f"{_sentence(error)} (while {doing})"
    if isinstance(error, IncompatibleError):
        return Fault(PluginState.INCOMPATIBLE, error.what, error.mend or "", trace)
    if isinstance(error, ConfigError):
        return Fault(
            PluginState.BROKEN, _sentence(error), error.mend or "", trace, True, where=error.where or ""
        )
    if isinstance(error, (ToolchainMissingError, UnsupportedError)):
        return Fault(PluginState.UNAVAILABLE, error.what, error.mend or "", trace)
    if isinstance(error, ModuleNotFoundError) and error.name:
        mend = f"install the package that provides the Python module '{error.name}', {_AGAIN}; or {_DISABLE}"
    elif isinstance(error, (ImportError, OSError)):
        mend = f"install what it needs (a vendor library or driver), {_AGAIN}; or {_DISABLE}"
    elif isinstance(error, KevolveError) and error.mend:
        mend = error.mend
    else:
        mend = f"upgrade the plugin or report this to its authors, {_AGAIN}; or {_DISABLE}"
    return Fault(PluginState.BROKEN, cause, mend, trace)


def _sentence(error: BaseException) -> str:
    if isinstance(error, KevolveError):
        return (
            error.what
            if error.got is None or f"'{error.got}'" in error.what
            else f"{error.what}: {error.got}"
        )
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__


def death_fault(code: int, doing: str, printed: str) -> Fault:
    """The fault for a probe process that ended with ``code`` (negative: a signal) while ``doing``."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        what = f"the process was killed by {name}"
    else:
        what = f"the process ended by itself with exit status {code}"
    # faulthandler prints the innermost frame first; the first outside of Python's own library tells most.
    frames = re.findall(r'^  File "([^"]+)", line (\d+)', printed, re.MULTILINE)
    library = f"{os.path.dirname(os.__file__)}/"
    theirs = [f for f in frames if f[0].startswith(f"{library}site-packages/") or library not in f[0]]
    place = " at {}:{}".format(*(theirs or frames)[0]) if frames else ""
    return Fault(
        PluginState.BROKEN,
        f"{what} while {doing}{place}",
        f"reinstall or upgrade the plugin and its driver, {_AGAIN}; or {_DISABLE}",
        printed[-_TRACE:],
    )


def hang_fault(seconds: float, doing: str, printed: str) -> Fault:
    """The fault for a probe that did not end in ``seconds``."""
    return Fault(
        PluginState.BROKEN,
        f"no answer within {seconds:g} s while {doing}",
        f"check its driver, or give it more time with KEVOLVE_PROBE_SECONDS, {_AGAIN}; or {_DISABLE}",
        printed[-_TRACE:],
    )
