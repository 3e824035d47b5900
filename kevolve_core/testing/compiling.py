"""The compiler: good and bad source, targets it does not know, a stable fingerprint, a cache that is used."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import attrs

from kevolve_core.errors import CompileError, ToolchainMissingError, UnsupportedError
from kevolve_core.model import Artifact, Candidate, Target
from kevolve_core.serial import to_plain
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.child import bare_environment, run_child
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_GARBAGE = "?? this line is no program: the conformance kit wrote it ??\n"
_UNKNOWN_ARCH = "kevolve-no-such-architecture"
_COMPILE = frozenset({"compile"})

_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
from kevolve_core.errors import ToolchainMissingError
from kevolve_core.interfaces import BackendRef
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain

device = from_plain(Device, request["device"])
spec = from_plain(KernelSpec, request["spec"])
candidates = [from_plain(Candidate, each) for each in request["candidates"]]
compiler = load_backend(from_plain(BackendRef, request["ref"])).compiler(device)
answer = {"keys": [], "error": ""}
try:
    with ThreadPoolExecutor(len(candidates)) as pool:
        made = pool.map(lambda c: compiler.compile(c, spec, spec.cases[0], device.target).key, candidates)
        answer["keys"] = list(made)
except BaseException as failure:
    answer["error"] = f"{type(failure).__name__}: {failure}"
"""

_PROGRAM = """
from kevolve_core.interfaces import BackendRef
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain

backend = load_backend(from_plain(BackendRef, request["ref"]))
device = from_plain(Device, request["device"])
spec = from_plain(KernelSpec, request["spec"])
candidate = from_plain(Candidate, request["candidate"])
try:
    made = backend.compiler(device).compile(candidate, spec, spec.cases[0], device.target)
    answer = {"key": made.key, "error": "", "kind": "", "mend": ""}
except BaseException as failure:
    answer = {"key": "", "error": str(failure), "mend": getattr(failure, "mend", None) or ""}
    answer["kind"] = type(failure).__mro__[0].__name__
    names = {each.__name__ for each in type(failure).__mro__}
    answer["kind"] = next((n for n in ("ToolchainMissingError", "CompileError", "UnsupportedError")
                           if n in names), answer["kind"])
"""


def accepts(subject: Subject) -> None:
    """A good kernel compiles to an artefact that says what it is and whose files exist."""
    candidate = subject.probes.copy
    made = subject.compile(candidate)
    if not isinstance(made, Artifact):
        raise fail("an Artifact", got=type(made).__name__, mend="return kevolve_core.model.Artifact(…)")
    for name, got, expected in (
        ("candidate_id", made.candidate_id, candidate.id),
        ("target", made.target, subject.device.target),
    ):
        if got != expected:
            raise fail(
                f"the artefact's {name} to be {expected}", got=got, mend="pass on what compile was given"
            )
    if not made.key:
        raise fail("a key", got=repr(made.key), mend="hash source, options, toolchain and target")
    for name, path in made.binaries.items():
        if name not in candidate.files or not Path(path).is_absolute() or not Path(path).exists():
            raise fail(
                "binaries: a file of the candidate -> the absolute path of what was built from it",
                got=f"{name}: {path}",
                mend="name a file of the candidate, and a path that exists when compile returns",
            )


def refuses(subject: Subject) -> None:
    """Source that is no program raises CompileError with the compiler's log."""
    good = subject.probes.copy
    broken = _broken(good)
    try:
        made = subject.compile(broken)
    except CompileError as error:
        if not error.log.strip():
            raise fail(
                "CompileError to carry the compiler's log",
                got="an empty log",
                mend="CompileError(what, log=what the compiler printed): a generator mends by reading it",
            ) from error
        return
    except Exception as error:
        raise fail(
            "CompileError for a candidate whose source is no program",
            got=f"{type(error).__name__}: {error}",
            mend="raise kevolve_core.errors.CompileError(what, log=…) for what is the candidate's fault; "
            "ToolchainMissingError and UnsupportedError are not",
        ) from error
    if isinstance(made, Artifact):
        raise fail(
            "CompileError for a candidate whose source is no program",
            got="an artefact",
            mend="look at the compiler's exit status; nothing of the kind may reach the device",
        )


def _broken(good: Candidate) -> Candidate:
    """The native files replaced by a line that is no program; the entry, where there are none."""
    native = [name for name in good.files if not name.endswith(".py")] or [good.entry]
    return attrs.evolve(good, files={**good.files, **dict.fromkeys(native, _GARBAGE)})


def toolchain(subject: Subject) -> None:
    """Where the toolchain is not installed, compile raises ToolchainMissingError that says what to
    install."""
    spec = subject.spec(subject.probes.elements)
    request = {
        "ref": to_plain(subject.ref),
        "device": to_plain(subject.device),
        "spec": to_plain(spec),
        "candidate": to_plain(subject.probes.copy),
    }
    with tempfile.TemporaryDirectory(prefix="kevolve-check-") as home:
        ended = run_child(_PROGRAM, request, 300.0, bare_environment(home))
    if ended.fault:
        raise fail(
            "compile to raise ToolchainMissingError (or to work) with an empty PATH",
            got=f"the process {ended.fault}\n{ended.printed}",
            mend="look for the tools before they are started",
        )
    answer = ended.answer
    if answer["key"] or answer["kind"] == "UnsupportedError":
        return  # it needs no tool from PATH
    if answer["kind"] != "ToolchainMissingError":
        raise fail(
            "ToolchainMissingError from compile with an empty PATH and an empty home",
            got=f"{answer['kind']}: {answer['error']}",
            mend="look for the compiler first and raise ToolchainMissingError(what, mend=package to "
            "install): a "
            "missing tool is not the candidate's fault",
        )
    if not answer["mend"]:
        raise fail(
            "ToolchainMissingError to say what to install",
            got=answer["error"],
            mend='ToolchainMissingError(what, mend="apt-get install acme-toolchain")',
        )


def target(subject: Subject) -> None:
    """A target that the compiler does not know raises UnsupportedError."""
    p = subject.probes
    spec = subject.spec(p.elements)
    unknown = Target(subject.name, _UNKNOWN_ARCH, subject.device.target.options)
    try:
        made = subject.compiler.compile(p.copy, spec, spec.cases[0], unknown)
    except UnsupportedError:
        return
    except Exception as error:
        raise fail(
            f"UnsupportedError for the architecture '{_UNKNOWN_ARCH}'",
            got=f"{type(error).__name__}: {error}",
            mend="check target.arch before anything is built",
        ) from error
    raise fail(
        f"UnsupportedError for the architecture '{_UNKNOWN_ARCH}'",
        got=f"an artefact for '{made.target.arch}', key {made.key[:16]}",
        mend="compile for target.arch, not for the machine at hand, and refuse what the compiler does not "
        "know",
    )


def fingerprint(subject: Subject) -> None:
    """Equal source gives equal keys, also in another process; other source gives another key."""
    p = subject.probes
    spec = subject.spec(p.elements)
    first = str(subject.compile(p.copy).key)
    fresh = subject.backend.compiler(subject.device)
    again = fresh.compile(p.copy, spec, spec.cases[0], subject.device.target).key
    request = {
        "ref": to_plain(subject.ref),
        "device": to_plain(subject.device),
        "spec": to_plain(spec),
        "candidate": to_plain(p.copy),
    }
    ended = run_child(_PROGRAM, request, 300.0)
    elsewhere = ended.answer["key"] or ended.answer["error"] if ended.answer else ended.fault
    for got, whose in ((again, "a second compile"), (elsewhere, "another process")):
        if got != first:
            raise fail(
                "one key for one source, target and toolchain",
                got=f"{first[:24]}, and from {whose} {str(got)[:200]}",
                where="Artifact.key",
                mend="hash content only: no time, no path, no process id, and not Python's own hash()",
            )
    others = {
        "empty": p.empty,
        "out_of_range": p.out_of_range,
        "endless": p.endless,
        "oversized": p.oversized,
    }
    for name, other in others.items():
        if other.files == p.copy.files or not _natives_differ(other, p.copy):
            continue
        if subject.compile(other).key == first:
            raise fail(
                f"another key for another source (probe '{name}')",
                got=first[:24],
                where="Artifact.key",
                mend="hash the text of every file that goes into the build",
            )


def _natives_differ(a: Candidate, b: Candidate) -> bool:
    """An entry's Python need not go into a build."""
    own = [{n: t for n, t in c.files.items() if not n.endswith(".py")} for c in (a, b)]
    return own[0] != own[1]


def cache(subject: Subject) -> None:
    """A second compile of the same source comes from the cache, with the same binaries, and that of another
    one does not."""
    first = subject.compile(subject.probes.copy)
    compiler = subject.backend.compiler(subject.device)
    spec = subject.spec(subject.probes.elements)
    second = compiler.compile(subject.probes.copy, spec, spec.cases[0], subject.device.target)
    if first.binaries and not second.cached:
        raise fail(
            "the second compile of one source to come from the cache",
            got="cached=False",
            where="Artifact.cached",
            mend="keep what was built under its key, in the user's cache folder: a search compiles the same "
            "source for the race and for the confirmation",
        )
    if dict(first.binaries) != dict(second.binaries):
        raise fail(
            "the same binaries from the cache",
            got=f"{dict(second.binaries)}, not {dict(first.binaries)}",
            mend="name the cache's entry by the key",
        )
    copy, empty = subject.probes.copy, subject.probes.empty
    other = subject.compile(empty)
    for name, path in first.binaries.items():
        if copy.files.get(name) != empty.files.get(name) and other.binaries.get(name) == path:
            raise fail(
                "another binary for another source",
                got=f"{path} for the probes 'copy' and 'empty' both",
                where="Artifact.binaries",
                mend="name the cache's entry by the key, not by the file's name",
            )


def threads(subject: Subject) -> None:
    """Several compiles at once, into an empty cache, do not disturb one another."""
    p = subject.probes
    spec = subject.spec(p.elements)
    wanted = [p.copy, p.empty, p.copy, p.empty, p.copy]
    request = {
        "ref": to_plain(subject.ref),
        "device": to_plain(subject.device),
        "spec": to_plain(spec),
        "candidates": [to_plain(c) for c in wanted],
    }
    with tempfile.TemporaryDirectory(prefix="kevolve-check-") as home:
        ended = run_child(_AT_ONCE, request, 300.0, {**os.environ, "HOME": home, "XDG_CACHE_HOME": home})
    error = ended.fault or ended.answer["error"]
    if error:
        raise fail(
            f"{len(wanted)} compiles at once to succeed like one after another",
            got=f"{error}\n{ended.printed}".rstrip(),
            where="Compiler.compile",
            mend="share no file and no state between compiles: write to a scratch name of your own and "
            "rename",
        )
    first, second, *_ = found = ended.answer["keys"]
    if found != [first, second, first, second, first]:
        raise fail(
            "compiles at once to give the keys of their own sources",
            got=[key[:16] for key in found],
            where="Compiler.compile",
            mend="keep no candidate in the compiler",
        )


def _needs_toolchain(check: Check) -> Check:
    """The check, skipped with the tool's name where this machine has none."""
    inner = check.run

    def run(subject: Subject) -> None:
        try:
            inner(subject)
        except ToolchainMissingError as error:
            raise SkippedError(f"no toolchain here: {error.what}") from error

    run.__doc__ = inner.__doc__
    return attrs.evolve(check, run=run)


CHECKS = tuple(
    _needs_toolchain(Check(name, run, (0,), _COMPILE))
    for name, run in (
        ("compile.accepts", accepts),
        ("compile.refuses", refuses),
        ("compile.target", target),
        ("compile.fingerprint", fingerprint),
        ("compile.cache", cache),
        ("compile.threads", threads),
        ("compile.toolchain", toolchain),
    )
)
