"""Deliberately broken backends, each a small delta of the toy: what is declared, probed and compiled.

An attribute of this module is a plugin, and workers find it again as ``broken.py:NAME``. Deltas of runner and
renderer are in `broken_parts`, imported late: a plugin that imports torch at its top would be broken, too.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from kevolve_toy.language import assemble
from kevolve_toy.plugin import CEILINGS, MANIFEST, ToyBackend, ToyCompiler

from kevolve_core.errors import CompileError
from kevolve_core.interfaces import Baseline, Compiler, Manifest, Profiler, Renderer, Runner, Work
from kevolve_core.ir import Step
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evidence, Profile, Target, content_hash
from kevolve_core.registry import Registry, hookimpl
from kevolve_core.roofline import RooflineProfiler
from kevolve_core.space import Constraint, Parameter, Space


class Plugin:
    """Registers one backend class under the toy's name."""

    def __init__(self, make: Callable[[], Any], manifest: Manifest = MANIFEST) -> None:
        self._make, self._manifest = make, manifest

    @hookimpl
    def kevolve_register(self, registry: Registry) -> None:
        registry.add_backend(self._manifest, lambda _: self._make())


# --- probing
# ---------------------------------------------------------------------------------------------------


class HangingProbe(ToyBackend):
    def probe(self) -> Sequence[Device]:
        time.sleep(60)
        return super().probe()


class CrashingProbe(ToyBackend):
    def probe(self) -> Sequence[Device]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().probe()


class RaisingProbe(ToyBackend):
    def probe(self) -> Sequence[Device]:
        raise RuntimeError("driver version mismatch")


class ProbeNeedsTool(ToyBackend):
    def probe(self) -> Sequence[Device]:
        subprocess.run(["true"], check=True)
        return super().probe()


class BoastingProbe(ToyBackend):
    def probe(self) -> Sequence[Device]:
        return [attrs.evolve(d, capabilities=d.capabilities | {"teleport"}) for d in super().probe()]


class ShufflingProbe(ToyBackend):
    def probe(self) -> Sequence[Device]:
        return [attrs.evolve(d, id=f"toy:{os.getpid()}") for d in super().probe()]


hanging_probe = Plugin(HangingProbe)
crashing_probe = Plugin(CrashingProbe)
raising_probe = Plugin(RaisingProbe)
probe_needs_tool = Plugin(ProbeNeedsTool)
boasting_probe = Plugin(BoastingProbe)
shuffling_probe = Plugin(ShufflingProbe)


# --- declaring
# -------------------------------------------------------------------------------------------------

_GUESSED = attrs.evolve(MANIFEST, evidence="guessed")
_NO_PROFILE = attrs.evolve(MANIFEST, capabilities=MANIFEST.capabilities - {"profile"})
_MEASURED = attrs.evolve(MANIFEST, evidence="measured")


class GuessedEvidence(ToyBackend):
    manifest = _GUESSED


class UndeclaredProfiler(ToyBackend):
    manifest = _NO_PROFILE


class AbsentProfiler(ToyBackend):
    def profiler(self, device: Device) -> Profiler | None:
        return None


class NobodysBaseline(ToyBackend):
    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[Baseline]:
        return (Baseline("vendor", "vendor", "kevolve_toy.library:call"),)


class BoundLoader(ToyBackend):
    def standalone_loader(self, language: str) -> str:
        return "from kevolve_toy import machine\n\ndef load_native(file, functions):\n    return machine\n"


class NoProbes(ToyBackend):
    probe_kernels = None  # type: ignore[assignment]


class NoPages(ToyBackend):
    def knowledge(self) -> Iterable[Path]:
        return ()


class BarePages(ToyBackend):
    def knowledge(self) -> Iterable[Path]:
        return (Path(__file__).parent / "bare_pages",)


guessed_evidence = Plugin(GuessedEvidence, _GUESSED)
undeclared_profiler = Plugin(UndeclaredProfiler, _NO_PROFILE)
absent_profiler = Plugin(AbsentProfiler)
nobodys_baseline = Plugin(NobodysBaseline)
bound_loader = Plugin(BoundLoader)
no_probes = Plugin(NoProbes)
no_pages = Plugin(NoPages)
bare_pages = Plugin(BarePages)


# --- compiling
# -------------------------------------------------------------------------------------------------


def _compiled_by(compiler: type[ToyCompiler]) -> Plugin:
    class Backend(ToyBackend):
        def compiler(self, device: Device) -> Compiler:
            return compiler()

    return Plugin(Backend)


class SwallowsErrors(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        try:
            return super().compile(candidate, spec, case, target)
        except CompileError:
            return Artifact("failed", candidate.id, target)


class SilentLog(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        try:
            return super().compile(candidate, spec, case, target)
        except CompileError:
            raise CompileError("the compiler failed") from None


class RaisesAnything(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        try:
            return super().compile(candidate, spec, case, target)
        except CompileError as error:
            raise RuntimeError(error.what) from error


class MissingToolEscapes(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        subprocess.run(["true"], check=True)
        return super().compile(candidate, spec, case, target)


class IgnoresTarget(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        made = super().compile(candidate, spec, case, attrs.evolve(target, arch="toy1"))
        return attrs.evolve(made, target=target)


class UnstableFingerprint(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        made = super().compile(candidate, spec, case, target)
        return attrs.evolve(made, key=content_hash([made.key, os.getpid()]))


class OneKeyForAll(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        made = super().compile(candidate, spec, case, target)
        return attrs.evolve(made, key=content_hash([spec.name, case.name, target.arch]))


class NeverCaches(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        return attrs.evolve(super().compile(candidate, spec, case, target), cached=False)


class SharedScratch(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        scratch = self.cache.root / "scratch.json"
        self.cache.root.mkdir(parents=True, exist_ok=True)
        scratch.write_text(str(assemble(candidate.files[candidate.entry], case.name)))
        time.sleep(0.2)
        scratch.unlink()
        return super().compile(candidate, spec, case, target)


class CachesByFileName(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        made = super().compile(candidate, spec, case, target)
        built = self.cache.root / f"by-name-{os.getpid()}" / candidate.entry
        if cached := built.exists():
            return attrs.evolve(made, binaries={candidate.entry: str(built)}, cached=cached)
        built.parent.mkdir(parents=True, exist_ok=True)
        built.write_text(Path(made.binaries[candidate.entry]).read_text())
        return attrs.evolve(made, binaries={candidate.entry: str(built)}, cached=False)


class WrongBinaries(ToyCompiler):
    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        made = super().compile(candidate, spec, case, target)
        return attrs.evolve(made, binaries={n: Path(p).name for n, p in made.binaries.items()})


swallows_errors = _compiled_by(SwallowsErrors)
silent_log = _compiled_by(SilentLog)
raises_anything = _compiled_by(RaisesAnything)
missing_tool_escapes = _compiled_by(MissingToolEscapes)
ignores_target = _compiled_by(IgnoresTarget)
unstable_fingerprint = _compiled_by(UnstableFingerprint)
one_key_for_all = _compiled_by(OneKeyForAll)
never_caches = _compiled_by(NeverCaches)
shared_scratch = _compiled_by(SharedScratch)
caches_by_file_name = _compiled_by(CachesByFileName)
wrong_binaries = _compiled_by(WrongBinaries)


# --- rendering
# -------------------------------------------------------------------------------------------------


def _rendered_by(name: str) -> Plugin:
    class Backend(ToyBackend):
        def renderers(self) -> Mapping[str, Renderer]:
            import broken_parts

            return {"toy": getattr(broken_parts, name)()}

    return Plugin(Backend)


class IllegalDefault(ToyBackend):
    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        tiles = Parameter("tile", (1, 16), 16)
        return Space((tiles,), (Constraint("tiles are small", lambda p: p["tile"] < 4),))


illegal_default = Plugin(IllegalDefault)
hash_ordered_renderer = _rendered_by("HashOrderedRenderer")
counting_renderer = _rendered_by("CountingRenderer")
boundless_renderer = _rendered_by("BoundlessRenderer")
tail_dropping_renderer = _rendered_by("TailDroppingRenderer")


# --- running
# ---------------------------------------------------------------------------------------------------


def _run_by(name: str, manifest: Manifest = MANIFEST) -> Plugin:
    class Backend(ToyBackend):
        def runner(self, device: Device) -> Runner:
            import broken_parts

            runner: Runner = getattr(broken_parts, name)()
            return runner

    Backend.manifest = manifest
    return Plugin(Backend, manifest)


aliasing_upload = _run_by("AliasingUpload")
ignores_strides = _run_by("IgnoresStrides")
returns_its_input = _run_by("ReturnsItsInput")
narrowing_download = _run_by("NarrowingDownload")
lossy_copy = _run_by("LossyCopy")
leaks_the_reference = _run_by("LeaksTheReference")
false_alarm = _run_by("FalseAlarm")
lying_timer = _run_by("LyingTimer")
milliseconds = _run_by("Milliseconds")
missing_synchronise = _run_by("MissingSynchronise")
counts_the_host = _run_by("CountsTheHost")
measured_simulator = _run_by("ToyRunner", _MEASURED)
falls_back_on_host = _run_by("FallsBackOnHost")
gives_up_waiting = _run_by("GivesUpWaiting")
clips_allocations = _run_by("ClipsAllocations")
leaks_buffers = _run_by("LeaksBuffers")
leaves_a_process = _run_by("LeavesAProcess")
leaves_a_file = _run_by("LeavesAFile")
halves_its_counters = _run_by("HalvesItsCounters")
counts_down = _run_by("CountsDown")
counts_nothing = _run_by("CountsNothing")


# --- profiling
# -------------------------------------------------------------------------------------------------


def _profiled_by(profiler: type[RooflineProfiler]) -> Plugin:
    class Backend(ToyBackend):
        def profiler(self, device: Device) -> Profiler | None:
            return profiler(CEILINGS, Evidence.SIMULATED)

    return Plugin(Backend)


class InventsCounters(RooflineProfiler):
    def profile(self, *arguments: Any) -> Profile:
        made = super().profile(*arguments)
        return attrs.evolve(made, counters={"bytes_read": 1e6, **made.counters})


class RandomCounters(RooflineProfiler):
    _calls = itertools.count()

    def profile(self, *arguments: Any) -> Profile:
        made = super().profile(*arguments)
        return attrs.evolve(made, counters={**made.counters, "cache_hit_rate": float(next(self._calls))})


class FlatteringRoofline(RooflineProfiler):
    def profile(self, *arguments: Any) -> Profile:
        made = super().profile(*arguments)
        assert made.roofline is not None
        return attrs.evolve(made, roofline=attrs.evolve(made.roofline, fraction=0.97))


class HighFloor(RooflineProfiler):
    def floor(self, work: Work) -> float:
        return 3 * super().floor(work)


invents_counters = _profiled_by(InventsCounters)
random_counters = _profiled_by(RandomCounters)
flattering_roofline = _profiled_by(FlatteringRoofline)
high_floor = _profiled_by(HighFloor)
