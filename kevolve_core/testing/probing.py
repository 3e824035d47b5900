"""The probe: never raises, returns in time, tells the truth, and the probe kernels it is checked with."""

from __future__ import annotations

import tempfile
from typing import Any

from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.model import Evidence
from kevolve_core.registry.status import PluginState
from kevolve_core.serial import to_plain
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.child import Ended, bare_environment, run_child
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_PROGRAM = """
from kevolve_core.interfaces import BackendRef
from kevolve_core.model import Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain

backend = load_backend(from_plain(BackendRef, request["ref"]))
answer = {"declared": sorted(backend.manifest.capabilities), "error": "", "devices": [], "odd": ""}
try:
    found = backend.probe()
    if isinstance(found, (list, tuple)) and all(isinstance(device, Device) for device in found):
        answer["devices"] = [[d.id, d.target.arch, sorted(d.capabilities)] for d in found]
    else:
        answer["odd"] = repr(found)[:200]
except BaseException as failure:
    answer["error"] = f"{type(failure).__name__}: {failure}"
"""

_NEVER = "catch it in probe() and return the devices that can be used: none is an answer, an exception is not"


def _raw(subject: Subject, environment: dict[str, str] | None = None) -> Ended:
    return run_child(_PROGRAM, {"ref": to_plain(subject.ref)}, subject.probe_seconds, environment)


def isolated(subject: Subject) -> None:
    """The probe returns in time and neither raises nor crashes."""
    seen = subject.report.backends.get(subject.name)
    fault = subject.report.fault or (seen.fault if seen is not None else None)
    if fault is not None and fault.state is not PluginState.UNAVAILABLE:
        trace = f"\n{fault.trace[-2000:]}" if fault.trace else ""
        raise fail(
            f"probe() to return within {subject.probe_seconds:g} s and never to raise",
            got=fault.cause + trace,
            where=subject.ref.plugin,
            mend="give every call of a driver a time limit; " + _NEVER,
        )
    if seen is None:
        raise fail(
            f"the plugin to register a backend '{subject.name}'",
            got=", ".join(subject.report.backends) or "none",
            mend="registry.add_backend(MANIFEST, factory) in kevolve_register",
        )


def bare(subject: Subject) -> None:
    """The probe does not raise where no tool and no driver is found."""
    _skip_unloadable(subject)
    with tempfile.TemporaryDirectory(prefix="kevolve-check-") as home:
        ended = _raw(subject, bare_environment(home))
    got = ended.fault and f"the process {ended.fault}\n{ended.printed}"
    got = got or ended.answer["error"] or ended.answer["odd"]
    if got:
        raise fail(
            "probe() to return a list of Device with an empty PATH, an empty home and no visible device",
            got=got,
            where=subject.ref.plugin,
            mend=_NEVER,
        )


def truthful(subject: Subject) -> None:
    """A device's capabilities are among the manifest's, and two probes agree."""
    _skip_unloadable(subject)
    first, second = _raw(subject), subject.found
    if first.fault or first.answer["error"] or first.answer["odd"]:
        raise SkippedError("the probe does not return: see probe.isolated")
    declared = set(first.answer["declared"])
    for identity, _, capabilities in first.answer["devices"]:
        if more := set(capabilities) - declared:
            raise fail(
                f"device '{identity}' to have capabilities of the manifest alone: "
                f"{', '.join(sorted(declared))}",
                got=", ".join(sorted(more)),
                mend="a probe may only narrow: declare it in the manifest, or leave it out of the device",
            )
    ids, again = [(i, a) for i, a, _ in first.answer["devices"]], [(d.id, d.target.arch) for d in second]
    if ids != again:
        raise fail(
            "two probes to name the same devices in the same order",
            got=f"{ids}, then {again}",
            mend="make ids from what is fixed to a device (its index or serial number), and sort them",
        )


def _skip_unloadable(subject: Subject) -> None:
    seen = subject.report.backends.get(subject.name)
    fault = subject.report.fault or (seen.fault if seen is not None else None)
    if fault is not None and fault.state is not PluginState.UNAVAILABLE:
        raise SkippedError("the probe does not return: see probe.isolated")


def supplied(subject: Subject) -> None:
    """The six probe kernels are there, in declared languages, and keep the rules for candidates."""
    try:
        probes = subject.probes
    except SkippedError as missing:
        if "probe kernels" not in str(missing):
            raise
        raise fail(
            "six probe kernels",
            got="none",
            where=subject.ref.plugin,
            mend="add a method probe_kernels(device) -> ProbeKernels to the backend, or probes = "
            '"module:function" to conformance.toml; see kevolve_core.testing.probes',
        ) from missing
    wanted = {name: getattr(probes, name) for name in _NAMES}
    for name, candidate in wanted.items():
        if candidate.language not in subject.manifest.languages:
            raise fail(
                f"probe '{name}' in a language of the manifest: {', '.join(subject.manifest.languages)}",
                got=candidate.language,
                mend="give the candidate the language's registered name",
            )
        if violations := check_candidate(candidate, subject.manifest.modules):
            raise fail(
                f"probe '{name}' to keep the rules for candidates",
                got=violations[0],
                mend="write it as a candidate would be written; modules of the language belong in "
                "Manifest.modules",
            )
    if probes.elements < 1 or probes.copy.id in (probes.empty.id, probes.endless.id, probes.oversized.id):
        raise fail(
            "probes that differ, of at least one element",
            got=f"elements = {probes.elements}, copy = {probes.copy.id}, empty = {probes.empty.id}",
            mend="each probe is a kernel of its own",
        )


_NAMES = ("copy", "copy_twice", "empty", "out_of_range", "endless", "oversized")


def device(subject: Subject) -> None:
    """There is a device, and the backend's evidence is that of the tier."""
    if not subject.found:
        seen: Any = subject.report.backends.get(subject.name)
        fault = subject.report.fault or (seen.fault if seen else None)
        raise fail(
            "a device on this machine",
            got=fault.cause if fault else "none",
            mend="run this tier where there is one (tier 0 needs none), or see `kevolve plugins doctor`",
        )


def _of_tier(tier: int) -> Check:
    measured = tier == 2

    def run(subject: Subject) -> None:
        """There is a device, and the backend's evidence is that of the tier."""
        device(subject)
        if (subject.manifest.evidence == Evidence.MEASURED) is not measured:
            raise fail(
                "evidence 'measured': tier 2 is of devices"
                if measured
                else "other evidence than 'measured': tier 1 is of simulators and interpreters",
                got=subject.manifest.evidence,
                where="Manifest.evidence",
                mend=f"run tier {1 if measured else 2}, or correct the evidence",
            )

    return Check("tier.device", run, (tier,))


CHECKS = (
    Check("probe.isolated", isolated, (0,)),
    Check("probe.bare", bare, (0,)),
    Check("probe.truthful", truthful, (0,)),
    Check("probes.supplied", supplied, (0,)),
    _of_tier(1),
    _of_tier(2),
)
