"""Candidates to cubins: what is cached, under which key, and which worker builds what is not."""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import queue
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from attrs import define, field

from kevolve_core.builds import BuildCache
from kevolve_core.errors import (
    CompileError,
    KevolveError,
    ToolchainMissingError,
    UnsupportedError,
    WorkerError,
)
from kevolve_core.isolate.process import Limits, RemoteError, WorkerProcess
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Target, content_hash
from kevolve_core.serial import to_plain
from kevolve_nvidia.architectures import architecture
from kevolve_nvidia.settings import Settings

__all__ = ["SOURCE_FOLDER", "BuildPool", "NvidiaCompiler", "toolchain"]

#: Folder of an artifact with the candidate's files.
SOURCE_FOLDER = "source"
_KEY_VERSION = 1  # raise when what goes into a build changes without its key changing
_AHEAD = 4  # workers started before the first candidate is there; `estimated`
_MEMORY_BYTES = 16 << 30  # of one compile worker; `estimated`
_KERNELS_SHARE = 4  # part of the cache's bytes that single kernels may take beside it; `estimated`
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "triton": ("triton", "pytorch-triton", "torch"),
    "cuda": ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime", "cuda-bindings"),
    "cute": ("nvidia-cutlass-dsl", "triton", "pytorch-triton", "torch"),
    "python": ("torch",),
}


def toolchain(language: str) -> dict[str, str]:
    """Package -> version of what compiles ``language``; packages that are not installed are left out."""
    found = {}
    for name in _PACKAGES.get(language, ()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@define
class BuildPool:
    """Compile workers, started as they are needed and kept warm. Thread-safe: each serves one caller at a
    time, and one that dies is replaced."""

    settings: Settings
    _folder: Path = field(init=False, factory=lambda: Path(tempfile.mkdtemp(prefix="kevolve-build-")))
    _idle: queue.LifoQueue[WorkerProcess] = field(init=False, factory=queue.LifoQueue)
    _started: int = field(init=False, default=0)
    _lock: Lock = field(init=False, factory=Lock)
    _all: list[WorkerProcess] = field(init=False, factory=list)
    _closed: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        atexit.register(self.close)

    def call(self, op: str, arguments: Mapping[str, Any]) -> Any:
        """The answer of operation ``op`` of `kevolve_nvidia.building.BuildRole`.

        Raises:
            WorkerError: the worker died, or took too long; RemoteError for what it raised.
        """
        with self._worker() as worker:
            return worker.call(op, arguments).value

    def start_ahead(self, count: int) -> None:
        """Begin to start up to ``count`` workers, in the background. One that cannot be started is missed
        when it is needed."""
        for _ in range(count):
            with self._lock:
                number = self._started
                if number >= self.settings.workers:
                    return
                self._started += 1
            Thread(target=self._add, args=[number], name="kevolve-build-ahead", daemon=True).start()

    def _add(self, number: int) -> None:
        try:
            self._idle.put(self._start(number))
        except KevolveError:
            with self._lock:
                self._started -= 1

    @contextlib.contextmanager
    def _worker(self) -> Iterator[WorkerProcess]:
        worker = self._take()
        try:
            yield worker
        finally:
            if worker.alive:
                self._idle.put(worker)
            else:
                with self._lock:
                    self._started -= 1

    def _take(self) -> WorkerProcess:
        while True:
            try:
                return self._idle.get_nowait()
            except queue.Empty:
                with self._lock:
                    number = self._started
                    if number < self.settings.workers:
                        self._started += 1
                        break
            with contextlib.suppress(queue.Empty):  # all are busy: wait for one, or for one to die
                return self._idle.get(timeout=1.0)
        try:
            return self._start(number)
        except BaseException:
            with self._lock:
                self._started -= 1
            raise

    def _start(self, number: int) -> WorkerProcess:
        if self._closed:  # a build that was running starts no worker in place of the one it lost
            raise KevolveError("the compiler was stopped")
        return WorkerProcess(
            "kevolve_nvidia.building:BuildRole",
            {},
            workdir=self._folder / f"{number}-{len(self._all)}",
            environment={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            limits=Limits(self.settings.compile_timeout_s, _MEMORY_BYTES),
            drop_privileges=True,
            name="compile",
            on_started=self._all.append,
        )

    def close(self) -> None:
        """Stop the workers for good and remove their folder. Safe to call again."""
        self._closed = True
        for worker in self._all:
            worker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@define
class NvidiaCompiler:
    """See `kevolve_core.interfaces.Compiler`. Builds in workers; the result is kept in a cache across runs,
    keyed on source, options, toolchain and architecture, and for languages whose kernels depend on the
    arguments (Triton) on what those look like."""

    settings: Settings
    device: Device
    _cache: BuildCache = field(init=False)
    _pool: BuildPool = field(init=False)
    _signatures: dict[str, Any] = field(init=False, factory=dict)
    _lock: Lock = field(init=False, factory=Lock)

    @_cache.default
    def _make_cache(self) -> BuildCache:
        return BuildCache(self.settings.cache, self.settings.cache_bytes)

    @_pool.default
    def _make_pool(self) -> BuildPool:
        return BuildPool(self.settings)

    def check(self) -> None:
        """Raise `ToolchainMissingError` where nothing could be compiled; otherwise begin to start the workers
        of a run, which takes seconds."""
        if not any(toolchain(language).keys() - {"torch"} for language in ("triton", "cuda")):
            raise ToolchainMissingError(
                "neither Triton nor NVRTC is installed", mend="pip install 'kevolve-nvidia[cuda]' triton"
            )
        self._pool.start_ahead(_AHEAD)

    def close(self) -> None:
        """Stop the compile workers."""
        self._pool.close()

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        """See `kevolve_core.interfaces.Compiler.compile`. A candidate in plain Python needs no compiler.

        Raises:
            CompileError: the source is refused, host code fails when it is recorded, or the compiler ran out
                of time or memory; has the log.
            ToolchainMissingError: the language's compiler is not installed.
            UnsupportedError: it makes no code for ``target``, or the language is none of this backend's.
            StoreError: the cache cannot be written.
        """
        language = candidate.language
        base: dict[str, Any] = {"version": _KEY_VERSION, "language": language, "arch": target.arch}
        if language == "python":
            key = content_hash({**base, "files": dict(candidate.files)})
            return Artifact(key, candidate.id, target, facts={"entry": candidate.entry})
        if language not in ("triton", "cuda", "cute"):
            raise UnsupportedError(
                "the nvidia backend compiles no such language", got=language, mend="triton, cuda or cute"
            )
        if language == "cute" and "nvidia-cutlass-dsl" not in toolchain(language):
            raise UnsupportedError(
                "CuTe DSL is not installed", got=language, mend="pip install 'kevolve-nvidia[cute]'"
            )
        arguments = self._arguments(candidate, spec, case, target)
        key = content_hash({**base, **arguments, "toolchain": toolchain(language)})
        entry = self._cache.get(key)
        cached = entry is not None
        if entry is None:
            with self._cache.building(key) as work:
                if work is None:
                    entry, cached = self._cache.path(key), True
                else:
                    facts = self._build(arguments, work)
                    entry = self._cache.publish(key, work, facts)
        recorded = self._cache.facts(entry)
        return Artifact(
            key=key,
            candidate_id=candidate.id,
            target=target,
            binaries={name: str(entry / path) for name, path in recorded["binaries"].items()},
            facts={
                "entry": candidate.entry,
                "folder": str(entry),
                "symbol": candidate.symbol,
                "toolchain": toolchain(language),
                **_totals(recorded["kernels"]),
                **{k: v for k, v in recorded.items() if k not in ("binaries", "diagnostics")},
            },
            diagnostics=recorded.get("diagnostics", ""),
            cached=cached,
        )

    def _arguments(
        self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target
    ) -> dict[str, Any]:
        """What a build depends on, as `BuildRole.op_build` takes it."""
        files = dict(candidate.files)
        arguments: dict[str, Any] = {
            "language": candidate.language,
            "files": files,
            "entry": candidate.entry,
            "symbol": candidate.symbol,
            "fallback_symbol": spec.reference.symbol,
            "arch": target.arch,
        }
        if candidate.language == "cuda":
            arguments["flags"] = list(self.settings.nvrtc_flags)
            arguments["includes"] = list(self.settings.include_dirs)
        else:
            from kevolve_nvidia.triton_properties import triton_properties

            arguments["properties"] = triton_properties(self.device.facts, architecture(target.arch))
            arguments["signature"] = self._signature(spec, case)
        return arguments

    def _signature(self, spec: KernelSpec, case: Case) -> Any:
        """See `kevolve_nvidia.signature.signature_of`; asked once for a spec and a case."""
        plain = to_plain(spec)
        key = content_hash([plain, case.name])
        with self._lock:
            if key not in self._signatures:
                try:
                    self._signatures[key] = self._pool.call("signature", {"spec": plain, "case": case.name})
                except RemoteError as error:
                    raise UnsupportedError(
                        "the reference cannot be loaded to see what its arguments look like",
                        got=error.what,
                        where=f"{spec.name}, case '{case.name}'",
                        mend="check the specification with `kevolve spec check`",
                    ) from error
            return self._signatures[key]

    def _build(self, arguments: Mapping[str, Any], work: Path) -> dict[str, Any]:
        share = self.settings.cache_bytes // _KERNELS_SHARE
        kept = {"kernels": str(self.settings.cache / "kernels"), "kernel_bytes": share}
        try:
            facts: dict[str, Any] = self._pool.call("build", {**arguments, **kept, "work": str(work)})
        except RemoteError as error:
            if error.kind == "out_of_memory":
                raise CompileError("compiling took too much memory", log=error.log, got=error.what) from error
            raise CompileError("the compiler failed", log=error.log, got=error.what) from error
        except WorkerError as error:
            what = "compiling did not end in time" if error.kind == "timeout" else "the compiler crashed"
            raise CompileError(what, log=str(error.got or error.what), got=error.what) from error
        if (found := facts.get("error")) is not None:
            raise _error_of(found)
        for name, text in arguments["files"].items():  # a profiler runs the candidate again from here
            path = work / SOURCE_FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return facts


def _error_of(found: Mapping[str, Any]) -> KevolveError:
    parts = {name: found[name] for name in ("got", "where") if found[name] is not None}
    if found["kind"] == "compile":
        return CompileError(found["what"], log=found["log"] or found["what"], **parts)
    cls = ToolchainMissingError if found["kind"] == "toolchain" else UnsupportedError
    return cls(found["what"], mend=found["mend"], **parts)


def _totals(kernels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of a candidate's kernels, which is what limits it."""
    facts = list(kernels.values())
    if not facts:
        return {}
    totals: dict[str, Any] = {
        name: max(int(f.get(name, 0)) for f in facts) for name in ("registers", "spill_bytes", "shared_bytes")
    }
    known = [float(f["occupancy"]) for f in facts if "occupancy" in f]
    return totals | ({"occupancy": min(known)} if known else {})
