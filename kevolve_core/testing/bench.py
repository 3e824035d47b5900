"""Device primitives under the kit's hands: a runner in a confined worker process, with the good probes
loaded.

What may crash, hang or exhaust memory goes through the evaluator instead (`kevolve_core.testing.containing`).
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kevolve_core.errors import UnsupportedError
from kevolve_core.evaluate.contender import scrub
from kevolve_core.evaluate.lifted import Lifted
from kevolve_core.evaluate.lock import cache_root
from kevolve_core.interfaces import Backend, BackendRef, Manifest
from kevolve_core.isolate import sandbox
from kevolve_core.isolate.process import Limits, WorkerProcess
from kevolve_core.model import Artifact, Candidate, Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.testing.leftovers import held_files
from kevolve_core.testing.probes import PROBE_SYMBOL

__all__ = ["Bench", "BenchClient", "BenchRole"]

_SECONDS = 600.0  # limit of one operation, beside the queue (estimated)


class Bench:
    """A runner and the probes that were handed to it; one of them is loaded at a time, as in the
    evaluator."""

    def __init__(self, backend: Backend, device: Device, workdir: Path) -> None:
        self.runner = backend.runner(device)
        self._known: dict[str, tuple[Artifact, Path, int]] = {}
        self._loaded = ""
        self._program: Callable[..., Any] | None = None
        self.runner.open(workdir)

    def add(self, key: str, artifact: Any, folder: str, elements: int) -> None:
        """Note a compiled probe."""
        made = artifact if isinstance(artifact, Artifact) else from_plain(Artifact, artifact)
        self._known[key] = (made, Path(folder), elements)

    def _use(self, key: str) -> Callable[..., Any]:
        if self._loaded != key or self._program is None:
            self._program = None
            if self._loaded:
                self.runner.reset()
            artifact, folder, _ = self._known[key]
            self._program = getattr(self.runner.load(artifact, folder), PROBE_SYMBOL)
            self._loaded = key
        assert self._program is not None
        return self._program

    def _argument(self, key: str, seed: int = 0) -> torch.Tensor:
        return torch.randn(self._known[key][2], generator=torch.Generator().manual_seed(seed))

    def _call(self, key: str, seed: int = 0, *, flush: bool = True) -> tuple[float, float, Any]:
        """(seconds by the runner, wall seconds, output) of one call as the evaluator makes it."""
        program, runner = self._use(key), self.runner
        buffer = runner.upload(self._argument(key, seed))
        if flush:
            runner.flush_cache()
        runner.synchronize()
        began = time.perf_counter()
        start = runner.timestamp()
        output = program(buffer)
        end = runner.timestamp()
        runner.synchronize()
        wall = time.perf_counter() - began
        return float(runner.elapsed(start, end)), wall, output

    # What the checks ask; all answers are JSON values.

    def copies(self, key: str) -> list[str]:
        """Ways in which a copy probe's output is not its argument."""
        wrong = []
        for seed in range(2):
            x = self._argument(key, seed)
            got = self.runner.download(self._call(key, seed)[2])
            if not isinstance(got, torch.Tensor):
                wrong.append(f"download gives a {type(got).__name__}, not a CPU tensor")
            elif got.shape != x.shape or got.dtype != x.dtype:
                wrong.append(f"{got.dtype}{list(got.shape)} instead of {x.dtype}{list(x.shape)}")
            elif not torch.equal(got.cpu(), x):
                wrong.append(f"{int((got.cpu() != x).sum())} of {x.numel()} elements differ")
        return wrong

    def answers_itself(self) -> bool:
        """Whether the output of a kernel that writes nothing is its argument: then it is the same buffer."""
        program, runner = self._use("empty"), self.runner
        x = self._argument("empty", 7)  # stays: freed memory of the host would hold it, too
        buffer = runner.upload(x)
        runner.poison(x.numel() * x.element_size())  # nor does free memory of the device hold a copy
        runner.synchronize()
        output = program(buffer)
        runner.synchronize()
        got = runner.download(output)
        return isinstance(got, torch.Tensor) and got.shape == x.shape and torch.equal(got.cpu(), x)

    def round_trips(self, dtypes: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Upload and download of every dtype, shape and layout: what came back changed, what is
        unsupported."""
        wrong: list[str] = []
        unsupported: list[str] = []
        aliased: list[str] = []
        for dtype in dtypes:
            for shape in shapes:
                for layout, tensor in _laid_out(dtype, shape):
                    what = f"{dtype}{list(shape)} {layout}"
                    for guarded in (False, True):
                        try:
                            buffer = self.runner.upload(tensor, guarded=guarded)
                        except UnsupportedError:
                            unsupported.append(dtype)
                            continue
                        kept = tensor.clone()
                        back = self.runner.download(buffer)
                        if fault := _difference(back, kept):
                            wrong.append(f"{what}{', guarded' if guarded else ''}: {fault}")
                        tensor.zero_()
                        if not _difference(self.runner.download(buffer), tensor) and bool(kept.any()):
                            aliased.append(what)
                        tensor.copy_(kept)
        return {
            "wrong": wrong[:8],
            "unsupported": sorted(set(unsupported)),
            "aliased": aliased[:3],
            "tried": len(dtypes) * len(shapes),
        }

    def times(self, keys: Sequence[str], rounds: int, calls: int, seconds: float) -> dict[str, Any]:
        """Seconds by the runner and by the wall, of probes in turn: ``calls`` of each in every round."""
        device: dict[str, list[float]] = {key: [] for key in keys}
        wall: dict[str, list[float]] = {key: [] for key in keys}
        deadline = time.monotonic() + seconds
        for i in range(rounds):
            if i and time.monotonic() > deadline:
                break
            for key in keys:
                self._call(key, i)  # the first after a load is nobody's time
                for j in range(calls):
                    took, passed, _ = self._call(key, i + j)
                    device[key].append(took)
                    wall[key].append(passed)
        return {"device": device, "wall": wall}

    def pending(self, key: str, rounds: int) -> dict[str, float]:
        """What was left to do after `synchronize`: medians of the time it reports for a call (``reported``),
        of a call that is ended by a download instead (``forced``), and of that download alone
        (``transfer``)."""
        runner = self.runner
        seen: dict[str, list[float]] = {
            "reported": [],
            "forced": [],
            "transfer": [],
            "first": [],
            "second": [],
        }
        for i in range(rounds):
            program = self._use(key)
            seen["reported"].append(self._call(key, i)[0])
            buffer = runner.upload(self._argument(key, i))
            runner.synchronize()
            a = runner.timestamp()
            output = program(buffer)
            runner.download(output)
            b = runner.timestamp()
            runner.download(output)
            c = runner.timestamp()
            runner.synchronize()
            seen["forced"].append(float(runner.elapsed(a, b)))
            seen["transfer"].append(float(runner.elapsed(b, c)))
            # The same against the wall: a download right after `synchronize` must find nothing left to do.
            output = self._call(key, i)[2]
            t0 = time.perf_counter()
            runner.download(output)
            t1 = time.perf_counter()
            runner.download(output)
            seen["first"].append(t1 - t0)
            seen["second"].append(time.perf_counter() - t1)
            seen.setdefault("call", []).append(self._call(key, i)[1])
        return {name: median(values) for name, values in seen.items()}

    def stale(self) -> dict[str, Any]:
        """Whether a kernel that writes nothing returns the result of an earlier call from freed memory."""
        found = []
        for attempt in range(3):
            x = self._argument("copy", attempt)  # another each time: freed inputs hold earlier answers
            copied = self._use("copy")
            held = self.runner.upload(x)  # stays: its content is the answer, too
            outputs = [copied(held) for _ in range(2)]  # a worker holds the last two, and then frees them
            self.runner.synchronize()
            scrub(outputs)  # as a worker does; a device's own buffers are the runner's
            del outputs, copied
            empty = self._use("empty")
            gc.collect()
            buffer = self.runner.upload(torch.zeros_like(x))
            self.runner.poison(x.numel() * x.element_size())
            self.runner.synchronize()
            output = empty(buffer)
            self.runner.synchronize()
            got = self.runner.download(output)
            same = isinstance(got, torch.Tensor) and got.shape == x.shape
            found.append(float((got == x).double().mean()) if same else 0.0)
            del output, buffer, held, got
        return {"share": max(found)}

    def growth(self, repeats: int) -> dict[str, float]:
        """Resident bytes gained by ``repeats`` of load, upload, call and reset, after a first few."""
        nbytes = 4 * self._known["copy"][2]
        self._cycle(2)
        before = _resident()
        self._cycle(repeats)
        return {"bytes": float(_resident() - before), "one": float(2 * nbytes), "repeats": float(repeats)}

    def _cycle(self, repeats: int) -> None:
        for i in range(repeats):
            output = self._call("copy", i, flush=False)[2]
            del output
            self._program, self._loaded = None, ""
            self.runner.reset()
            gc.collect()

    def primitives(self) -> dict[str, str]:
        """What each of the remaining primitives raised or answered wrongly; "" where it is well."""
        runner = self.runner
        self._call("copy")

        def counters() -> str:
            found = runner.counters()
            good = isinstance(found, Mapping) and all(
                isinstance(k, str) and isinstance(v, (int, float)) and isfinite(v) for k, v in found.items()
            )
            return "" if good else f"counters() gives {found!r:.200}, no mapping of names to finite numbers"

        def foreign() -> str:
            found = runner.foreign_activity()
            return f"foreign_activity() reports {found!r:.200} after a plain copy" if found else ""

        def module() -> str:
            moved = runner.to_device(torch.nn.Linear(2, 2, bias=False))
            return "" if moved is not None else "to_device() returns None"

        def quietly(action: Callable[[], Any]) -> Callable[[], str]:
            return lambda: action() and ""

        tried: dict[str, Callable[[], str]] = {
            "flush_cache": quietly(runner.flush_cache),
            "poison": quietly(lambda: runner.poison(1 << 20)),
            "synchronize": quietly(runner.synchronize),
            "counters": counters,
            "foreign_activity": foreign,
            "to_device": module,
            "reset": quietly(runner.reset),
        }
        answers = {}
        for name, action in tried.items():
            try:
                answers[name] = action() or ""
            except UnsupportedError:
                answers[name] = "" if name == "to_device" else f"{name}() is not supported"
            except Exception as error:
                answers[name] = f"{name}() raised {type(error).__name__}: {error}"
        self._program, self._loaded = None, ""
        return answers

    def counted(self, key: str) -> dict[str, Any]:
        """What the runner counts during one call of a probe, with its seconds (medians of three)."""
        rows, seconds = [], []
        self._call(key)
        for i in range(3):
            before = dict(self.runner.counters())
            seconds.append(self._call(key, i)[0])
            after = self.runner.counters()
            rows.append({name: float(value) - float(before.get(name, 0.0)) for name, value in after.items()})
        names = rows[0].keys()
        return {"counters": {n: median(r[n] for r in rows) for n in names}, "seconds": median(seconds)}


def _record_writes(written: dict[str, None]) -> None:
    """From now on note every path that this process opens for writing or makes, as Python sees it. Cannot be
    undone."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        paths: tuple[Any, ...] = ()
        if (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ) or event in ("os.mkdir", "os.truncate"):
            paths = arguments[:1]
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = arguments[1:2]
        for path in paths:
            if isinstance(path, (str, bytes, os.PathLike)):
                written[os.path.abspath(os.fsdecode(path))] = None

    sys.addaudithook(hook)


class BenchRole:
    """`Bench` as the role of a worker process."""

    def __init__(
        self, ref: Any, device: Any, workdir: str, grants: Sequence[str], narrowed: str = ""
    ) -> None:
        self._written: dict[str, None] = {}
        _record_writes(self._written)
        backend = load_backend(from_plain(BackendRef, ref))
        self._bench = Bench(backend, from_plain(Device, device), Path(workdir))
        refused = sandbox.confine(network="network" in grants, write="write" in grants)
        self._sandbox = "; ".join(part for part in (refused, narrowed) if part)

    def op_bench(self, name: str, arguments: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """One method of the bench."""
        return getattr(self._bench, name)(**arguments), []

    def op_written(self) -> tuple[Any, list[Any]]:
        """Paths that this process wrote to."""
        return list(self._written), []


class BenchClient:
    """The kit's handle on a bench in a worker process, or (``isolated`` false) in this one."""

    def __init__(
        self, ref: BackendRef, device: Device, manifest: Manifest, workdir: Path, *, isolated: bool
    ) -> None:
        self._workdir = workdir
        lifted = Lifted.of(ref)
        self._limits = Limits(_SECONDS + 50 * lifted.grants.queue)
        self._worker: WorkerProcess | None = None
        self._bench: Bench | None = None
        workdir.mkdir(parents=True, exist_ok=True)
        if not isolated:
            self._bench = Bench(load_backend(ref), device, workdir)
            return
        config = {
            "ref": to_plain(ref),
            "device": to_plain(device),
            "workdir": str(workdir),
            "grants": lifted.opened,
        }
        self._worker = WorkerProcess(
            "kevolve_core.testing.bench:BenchRole",
            config,
            workdir=workdir,
            environment={
                **lifted.environment(),
                **manifest.worker_environment,
                "XDG_CACHE_HOME": str(cache_root().parent),
            },
            limits=self._limits,
            drop_privileges=True,
            boundary=lifted.boundary(workdir),
            name="bench",
        )

    @property
    def alive(self) -> bool:
        return self._bench is not None or (self._worker is not None and self._worker.alive)

    def load(self, key: str, candidate: Candidate, artifact: Artifact, elements: int) -> None:
        """Hand over a compiled probe."""
        folder = self._workdir / "probes" / candidate.id
        for name, text in candidate.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.call("add", key=key, artifact=to_plain(artifact), folder=str(folder), elements=elements)

    def call(self, name: str, **arguments: Any) -> Any:
        """A method of the bench. Raises WorkerError for what it does to the worker, RemoteError for what it
        raises there."""
        if self._bench is not None:
            return getattr(self._bench, name)(**arguments)
        assert self._worker is not None
        return self._worker.call("bench", {"name": name, "arguments": arguments}).value

    def written(self) -> list[str]:
        """Paths the worker wrote to, and those it holds open for writing or maps shared, native code's
        too."""
        assert self._worker is not None
        noted: list[str] = self._worker.call("written").value
        return list(dict.fromkeys([*noted, *held_files(self._worker.pid)]))

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
        self._bench = None


def _laid_out(dtype: str, shape: Sequence[int]) -> list[tuple[str, torch.Tensor]]:
    """A tensor of drawn values, and the same transposed and as a view with an offset where it can be."""
    kind = getattr(torch, dtype)

    def drawn(*sizes: int) -> torch.Tensor:
        values = torch.randn(sizes, generator=torch.Generator().manual_seed(len(sizes))) * 50
        return (values > 0) if kind is torch.bool else values.to(kind)

    found = [("contiguous", drawn(*shape))]
    if len(shape) >= 2:
        found.append(("transposed", drawn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)))
    if shape:
        found.append(("offset", drawn(shape[0] + 3, *shape[1:])[3:]))
    return found


def _difference(got: Any, want: torch.Tensor) -> str:
    if not isinstance(got, torch.Tensor):
        return f"download gives a {type(got).__name__}, not a CPU tensor"
    if got.device.type != "cpu":
        return f"download gives a tensor on {got.device}"
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"came back as {got.dtype}{list(got.shape)}"
    return "" if torch.equal(got, want) else f"{int((got != want).sum())} of {want.numel()} elements changed"


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
