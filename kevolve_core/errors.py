"""Every exception a user can meet.

Each one says what was wrong, what was got, where, and how to mend it; the command line prints exactly these
lines and never a bare traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CaptureError",
    "CompileError",
    "ConfigError",
    "DegenerateSpecError",
    "EgressError",
    "KevolveError",
    "MalformedReplyError",
    "KnowledgeError",
    "PluginError",
    "RequestError",
    "ProviderError",
    "RunLockedError",
    "SpecError",
    "SpendingLimitError",
    "StoreError",
    "ToolchainMissingError",
    "UndeclaredCapabilityError",
    "UnknownNameError",
    "UnsupportedError",
    "WorkerError",
    "suggest",
]


def suggest(name: str, known: Iterable[str]) -> str:
    """A ``did you mean`` clause for a mistyped ``name``, or an empty string where nothing is close."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


class KevolveError(Exception):
    """Base of everything Kevolve raises on purpose.

    Args:
        what: what was wrong, as a sentence without a full stop.
        got: the offending value, as the user wrote it.
        where: file and key, plugin, stage or run it belongs to.
        mend: what to do about it.
    """

    def __init__(
        self, what: str, *, got: object = None, where: str | None = None, mend: str | None = None
    ) -> None:
        self.what = what
        self.got = got
        self.where = where
        self.mend = mend
        super().__init__(self.__str__())

    def __str__(self) -> str:
        lines = [self.what]
        if self.got is not None:
            lines.append(f"  got:   {self.got}")
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, dict(self.__dict__)))


def _rebuild(cls: type[KevolveError], what: str, state: dict[str, object]) -> KevolveError:
    error = cls.__new__(cls)
    Exception.__init__(error, what)
    error.__dict__.update(state)
    return error


class SpecError(KevolveError):
    """A kernel specification is not usable: unknown key, bad value, reference that does not import or run."""


class DegenerateSpecError(SpecError):
    """The oracle of a specification would accept zeros, a constant, an input's copy or another input's
    output."""


class CaptureError(KevolveError):
    """A reference could not be captured as an operator graph (names the operator and its source line)."""


class ConfigError(KevolveError):
    """``plugins.toml``, an option or a flag has an unknown key or a bad value."""


class KnowledgeError(KevolveError):
    """A knowledge page or skill is not usable: front matter missing or malformed, no source, unknown id."""


class RequestError(KevolveError):
    """A plain request leaves something open or says what is not understood; ``what`` is the one question."""


class UnknownNameError(KevolveError):
    """A backend, generator, policy, run, … of that name is not there; lists those that are."""


class PluginError(KevolveError):
    """A plugin is disabled, incompatible, broken or unavailable; the cause is chained."""


class UndeclaredCapabilityError(PluginError):
    """A capability was called that the backend's manifest, or the probe of the device, does not declare."""


class ToolchainMissingError(KevolveError):
    """A compiler or tool is not installed; ``mend`` names the package."""


class CompileError(KevolveError):
    """A compiler refused a candidate. ``log`` is what it printed."""

    def __init__(
        self,
        what: str,
        *,
        log: str = "",
        got: object = None,
        where: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.log = log
        super().__init__(what, got=got, where=where, mend=mend)


class ProviderError(KevolveError):
    """A language model did not answer usably.

    ``kind`` says why: ``key`` (bad, missing or without the right), ``model`` (unknown), ``context`` (the
    prompt is too long for it), ``refusal``, ``truncated`` (the reply ended at its length limit),
    ``request`` (the server does not take it), ``rate_limit``, ``timeout``, ``connection`` (refused, dropped,
    stream cut short), ``server`` (5xx), ``protocol`` (not the answer of such a server), ``replay`` (not
    recorded).
    ``retry_after`` is what the server asked for, in seconds; ``billed`` says that the server may count the
    attempt although no answer came.
    """

    def __init__(
        self,
        what: str,
        *,
        kind: str,
        retry_after: float | None = None,
        billed: bool = False,
        got: object = None,
        where: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.kind = kind
        self.retry_after = retry_after
        self.billed = billed
        super().__init__(what, got=got, where=where, mend=mend)

    @property
    def transient(self) -> bool:
        """Asking again may help."""
        return self.kind in {"rate_limit", "timeout", "connection", "server", "protocol"}

    @property
    def fatal(self) -> bool:
        """No proposal can be had before somebody mends it: it ends the run, which can be resumed."""
        return self.kind in {"key", "model"}


class MalformedReplyError(KevolveError):
    """A language model's reply holds no candidate: no file, an edit that fits nowhere, a syntax error."""


class SpendingLimitError(KevolveError):
    """A request could overrun a cap on ``tokens`` or ``money`` (``limit``), so it was not sent."""

    def __init__(
        self,
        what: str,
        *,
        limit: str,
        got: object = None,
        where: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.limit = limit
        super().__init__(what, got=got, where=where, mend=mend)


class EgressError(KevolveError):
    """What would be sent derives from confidential material that the provider may not see."""


class UnsupportedError(KevolveError):
    """The target or generator says it cannot do this; never a wrong answer instead."""


class WorkerError(KevolveError):
    """A worker process died, hung or broke its protocol. ``kind`` is ``crash``, ``timeout`` or
    ``out_of_memory``."""

    def __init__(
        self,
        what: str,
        *,
        kind: str = "crash",
        got: object = None,
        where: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.kind = kind
        super().__init__(what, got=got, where=where, mend=mend)


class StoreError(KevolveError):
    """The run store cannot be read or written (full disk, other schema version, damaged file)."""


class RunLockedError(StoreError):
    """Another process is using this run directory."""
