"""The backend under test: what the checks ask of it, made once and torn down at the end."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any

import attrs

from kevolve_core.errors import PluginError
from kevolve_core.evaluate import LocalExecutor, Plan
from kevolve_core.interfaces import Backend, BackendRef, Compiler, Manifest
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Artifact, Candidate, Device, Evidence
from kevolve_core.registry import Registry, load_backend
from kevolve_core.registry.probe import PROBE_SECONDS, ProbeReport, probe
from kevolve_core.registry.source import PluginSource
from kevolve_core.testing.bench import BenchClient
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.expect import EXPECTATIONS_FILE, Expectations, read_expectations
from kevolve_core.testing.probes import PROBE_SYMBOL, ProbeKernels, SuppliesProbes

__all__ = ["Subject", "find_expectations", "reference_of", "subject_of"]

#: Seconds within which a good probe's call must end, and after which an endless one is stopped (estimated).
PATIENCE = 10.0

_COPY_SOURCE = f"def {PROBE_SYMBOL}(x):\n    return x.clone()\n"


class Subject:
    """A backend, its device and its probe kernels.

    Args:
        ref: how a worker process finds the backend.
        expectations: its ``conformance.toml``.
        distribution: name and version of what it was installed from.
        isolated: device primitives run in a worker process; without, in this one (tests of the kit itself).
        probe_seconds: limit for its probe.
        patience: seconds of a candidate's time limit in the containment checks, beside its queue.
    """

    def __init__(
        self,
        ref: BackendRef,
        *,
        expectations: Expectations | None = None,
        distribution: tuple[str, str] = ("", ""),
        isolated: bool = True,
        probe_seconds: float = PROBE_SECONDS,
        patience: float = PATIENCE,
    ) -> None:
        self.ref = ref
        self.expectations = expectations or Expectations()
        self.distribution = distribution
        self.probe_seconds = probe_seconds
        self.patience = patience
        self.isolated = isolated
        self.workdir = Path(tempfile.mkdtemp(prefix="kevolve-conformance-"))
        self._executors: list[LocalExecutor] = []
        self.containment: LocalExecutor | None = None  # see kevolve_core.testing.containing
        self._bench: BenchClient | None = None
        self.times: Mapping[str, Mapping[str, list[float]]] | None = None  # see kevolve_core.testing.timing

    # What it is.

    @property
    def name(self) -> str:
        return self.ref.backend

    @property
    def source(self) -> PluginSource:
        return PluginSource.parse(self.ref.plugin)

    @cached_property
    def report(self) -> ProbeReport:
        """The plugin as a subprocess with a time limit saw it."""
        options = dict(self.ref.options)
        return probe(self.source, self.name, options, "options", self.probe_seconds, Event())

    @cached_property
    def backend(self) -> Backend:
        """The backend in this process. Skips where its probe shows that it would not load."""
        if self.report.fault is not None:
            raise SkippedError(f"the plugin does not load ({self.report.fault.cause}): see import.clean")
        return load_backend(self.ref)

    @property
    def manifest(self) -> Manifest:
        return self.backend.manifest

    @property
    def found(self) -> tuple[Device, ...]:
        """Devices that the isolated probe found."""
        seen = self.report.backends.get(self.name)
        return () if seen is None or seen.fault is not None else seen.devices

    @property
    def device(self) -> Device:
        """The first device found, or the one that ``conformance.toml`` describes."""
        if self.found:
            return self.found[0]
        described = self.expectations.described_device(self.name, self.manifest.capabilities)
        if described is None:
            raise SkippedError(
                "no device was found, and conformance.toml describes none to compile for ([device] id, arch)"
            )
        return described

    @property
    def queue_seconds(self) -> float:
        """What a launch may wait for its turn, by the manifest."""
        return float(self.manifest.needs.get("run", {}).get("queue", 0.0))

    @property
    def measured(self) -> bool:
        """Its times are those of a device, to be held against this machine's clock."""
        return self.manifest.evidence == Evidence.MEASURED

    def require(self, check: Check, tier: int) -> None:
        """Skip a check that cannot be made here."""
        if tier and check.id != "tier.device" and not self.found:
            raise SkippedError("no device was found: see tier.device")
        if check.capabilities:
            declared = self.device.capabilities if tier else self.manifest.capabilities
            if missing := check.capabilities - declared:
                raise SkippedError(f"the capability '{min(missing)}' is not declared")

    # What it runs.

    @cached_property
    def probes(self) -> ProbeKernels:
        """The vendor's six probe kernels."""
        where = self.expectations.probes
        if where:
            module, _, attribute = where.partition(":")
            self.source.load()  # a plugin at a path brings its folder along
            try:
                make = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise fail(
                    f"probe kernels at {where}",
                    got=error,
                    where=f"{self.expectations.file}:probes",
                    mend='probes = "module:function", a function of the device that returns ProbeKernels',
                ) from error
            given = make(self.device)
        elif isinstance(self.backend, SuppliesProbes):
            given = self.backend.probe_kernels(self.device)
        else:
            raise SkippedError(
                "the backend supplies no probe kernels (method probe_kernels, or probes in "
                "conformance.toml): "
                "see probes.supplied"
            )
        if not isinstance(given, ProbeKernels):
            raise fail(
                "a ProbeKernels", got=type(given).__name__, mend="return kevolve_core.testing.ProbeKernels(…)"
            )
        return given

    def spec(self, elements: int, **options: Any) -> KernelSpec:
        """What a copy probe of ``elements`` computes."""
        x = InputSpec("x", (elements,))
        return KernelSpec(
            name="conformance_copy",
            reference=Reference(_COPY_SOURCE, PROBE_SYMBOL),
            cases=(Case("copy", (x,)),),
            options=options,
        )

    @cached_property
    def compiler(self) -> Compiler:
        return self.backend.compiler(self.device)

    def compile(self, candidate: Candidate, elements: int = 0) -> Artifact:
        """Build a probe for its own size (``copy``'s by default)."""
        spec = self.spec(elements or self.probes.elements)
        return self.compiler.compile(candidate, spec, spec.cases[0], self.device.target)

    def executor(self, spec: KernelSpec, plan: Plan | None = None) -> LocalExecutor:
        """The real evaluator on ``spec``; closed with the subject."""
        made = LocalExecutor(self.ref, self.backend, self.device, spec, secret=20011, plan=plan)
        self._executors.append(made)
        return made

    def done(self, executor: LocalExecutor) -> None:
        """End an executor's workers now."""
        executor.close()
        self._executors.remove(executor)

    @property
    def bench(self) -> BenchClient:
        """The runner with the good probes loaded, in a worker process that is confined like any other."""
        if self._bench is None or not self._bench.alive:
            self._bench = BenchClient(
                self.ref, self.device, self.manifest, self.workdir / "bench", isolated=self.isolated
            )
            p = self.probes
            for key, candidate, n in (
                ("copy", p.copy, p.elements),
                ("copy_twice", p.copy_twice, 2 * p.elements),
                ("empty", p.empty, p.elements),
            ):
                self._bench.load(key, candidate, self.compile(candidate, n), n)
        return self._bench

    def close(self) -> None:
        """End every process and remove the scratch folder. Safe to call again."""
        for executor in self._executors:
            executor.close()
        self._executors.clear()
        if self._bench is not None:
            self._bench.close()
            self._bench = None
        shutil.rmtree(self.workdir, ignore_errors=True)


def reference_of(registry: Registry, name: str) -> tuple[BackendRef, tuple[str, str]]:
    """How a worker finds backend ``name``, and the distribution it comes from, also where its plugin is
    broken: that is for the kit to say.

    Raises:
        UnknownNameError, PluginError: there is none, or it is disabled, incompatible or not granted its
        needs.
    """
    try:
        ref, error = registry.ref(name), None
    except PluginError as refusal:
        ref, error = None, refusal
    for status in registry.statuses():
        if name in status.backends or status.name == name:
            distribution = (status.distribution, status.version)
            if ref is not None:
                return ref, distribution
            if status.state.value == "broken" and status.source:
                return BackendRef(status.source, name), distribution
    if error is not None:
        raise error
    assert ref is not None
    return ref, ("", "")


def find_expectations(source: PluginSource, backend: str) -> Path | None:
    """The ``conformance.toml`` of a backend: in the working directory where it is about this backend, in the
    plugin's package, or at the top of its source tree. Imports nothing."""
    here = Path(EXPECTATIONS_FILE)
    if here.is_file() and read_expectations(here).backend in ("", backend):
        return here
    package = source.location()
    for folder in () if package is None else (package, *package.parents[:2]):
        file = folder / EXPECTATIONS_FILE
        if file.is_file() and read_expectations(file).backend in ("", backend):
            return file
    return None


def subject_of(
    registry: Registry, name: str, expect: Path | None = None, options: Mapping[str, Any] | None = None
) -> Subject:
    """The subject for an installed backend.

    Raises:
        KevolveError: there is no such backend, or its ``conformance.toml`` is not valid.
    """
    ref, distribution = reference_of(registry, name)
    file = expect or find_expectations(PluginSource.parse(ref.plugin), name)
    expectations = read_expectations(file) if file is not None else Expectations()
    if options:
        ref = attrs.evolve(ref, options={**ref.options, **options})
    return Subject(ref, expectations=expectations, distribution=distribution)
