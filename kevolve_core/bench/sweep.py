"""One problem measured in one process: reference, baselines and generated candidates on the device.

Quicker than the evaluator and not fenced like it: expected results, baselines and candidates share a process,
inputs are drawn on the device, and every timed call of a problem sees the same data (caches flushed, memory
of results poisoned). It takes candidates of this project's own generator, which have no interest in cheating;
a candidate from anywhere else belongs into the evaluator.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kevolve_core.bench.ahead import CompiledAhead, hollow
from kevolve_core.bench.answered import AnsweredInputs
from kevolve_core.bench.cores import on
from kevolve_core.bench.pool import BASELINE, MEASURING
from kevolve_core.bench.shrink import SCALES, shrunk
from kevolve_core.errors import KevolveError, WorkerError
from kevolve_core.evaluate.contender import library_calls
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.interfaces import BackendRef, Proposal, Remarking
from kevolve_core.isolate.entry import exported
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Artifact, Candidate, Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.spec.draw import VARIANTS, draw_tensor, generator, transform
from kevolve_core.spec.given import given_by_file, is_free
from kevolve_core.spec.runtime import LoadedReference, example_inputs, in_float64, load_reference
from kevolve_core.synth import SynthGenerator

__all__ = ["SweepRole"]

Call = Callable[..., Any]
_QUICK = 3  # timed calls that rank a candidate
_FINALISTS = 2  # measured beside the baselines, call by call
_SLOW = 4.0  # times the best baseline beyond which one call is enough to know
_LEAST, _MOST = 6, 12  # rounds of a paired measurement
_CLOSE = 1.15  # times the fastest finalist within which another may still be faster
_WAIT_S, _PAUSE_S = 60.0, 0.5  # for memory that the problem on the device has


class SweepRole:
    """Operations of a sweeping process (see `kevolve_core.isolate.worker`), in this order for each problem:
    ``plan``, ``compile`` (both beside whatever the device does), ``measure`` (alone on it).

    Args:
        ref: the backend, as plain values.
        device: one of its devices, as plain values. PyTorch must know it.
        language: of the candidates; "" for all.
        threads: CPU threads.
        workdir: scratch directory.
    """

    def __init__(self, ref: Any, device: Any, language: str, threads: int, workdir: str) -> None:
        torch.set_num_threads(threads)
        self._backend = load_backend(from_plain(BackendRef, ref))
        self._device = from_plain(Device, device)
        renderers = dict(self._backend.renderers())
        self._renderers = {k: v for k, v in renderers.items() if not language or k == language}
        self._runner = self._backend.runner(self._device)
        self._workdir = Path(workdir)
        self._runner.open(self._workdir)
        self._home: torch.device = self._runner.upload(torch.zeros(1)).device
        self._spec: KernelSpec | None = None
        self._reference: LoadedReference | None = None
        self._double: Any = None
        self._busy = 0.0
        self._baselines: dict[str, Call] = {}
        self._broken: dict[str, str] = {}

    def unusable(self) -> str:
        """Why this process must be replaced after an operation failed, or ""."""
        try:
            self._runner.synchronize()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def op_shrink(self, source: str, scale: str, where: str) -> tuple[Any, list[Any]]:
        """``source`` at a scale (see `shrunk`)."""
        with torch.random.fork_rng(devices=[]):
            return {"source": shrunk(source, SCALES[scale], where)}, []

    def op_plan(self, spec: Any, seed: int, count: int) -> tuple[Any, list[Any]]:
        """Up to ``count`` candidates for a problem: the defaults, the starts, then drafts. Runs nothing."""
        self._clear()
        torch._dynamo.reset()
        self._spec = wanted = from_plain(KernelSpec, spec)
        self._reference = load_reference(wanted, wanted.cases[0], seed)
        start = time.perf_counter()
        make = SynthGenerator(wanted, self._renderers, self._backend.schedule_space, self._device)
        found: dict[str, Candidate] = {}
        for sequence in range(4 * count):
            if len(found) == count:
                break
            context = Proposal(wanted, self._device, sequence, seed, parents=())
            for candidate in make.propose_now(context, 1):
                if not check_candidate(candidate, self._backend.manifest.modules):
                    found.setdefault(candidate.id, candidate)
        program = make.programs()[0]
        return {
            "candidates": [to_plain(c) for c in found.values()],
            "steps": len(program.steps),
            "propose_s": round(time.perf_counter() - start, 3),
        }, []

    def op_compile(self, without: Sequence[str] = ()) -> tuple[Any, list[Any]]:
        """Make the baselines, and compile those that are compiled without running them. Those in ``without``
        took the device down before."""
        assert self._spec is not None
        assert self._reference is not None
        start = time.perf_counter()
        if self._reference.module is not None:
            self._runner.to_device(self._reference.module)
        self._baselines, self._broken = {}, {}
        for which in self._backend.baselines(self._spec, self._device):
            if which.name in without:
                self._broken[which.name] = "took the device down"
            elif which.kind == "compiled":
                ahead = CompiledAhead(self._reference.call)
                try:
                    ahead.prepare(self._hollow_inputs())
                    self._baselines[which.name] = ahead
                except Exception as error:
                    self._broken[which.name] = f"{type(error).__name__}: {error}"[:300]
            else:
                module, _, name = which.factory.partition(":")
                factory = getattr(importlib.import_module(module), name)
                self._baselines[which.name] = factory(self._reference.call)
        self._give_back()  # what the hollow tensors had, and trials of paddings
        return {"compile_s": round(time.perf_counter() - start, 3), "broken": self._broken}, []

    def _hollow_inputs(self) -> list[Any]:
        """Tensors without memory. Making one takes its memory for a moment, and the problem on the device
        may have that."""
        assert self._spec is not None
        given = example_inputs(self._spec, self._spec.cases[0])
        deadline = time.perf_counter() + _WAIT_S
        while True:
            try:
                return [hollow(v, self._home) for v in given]
            except torch.OutOfMemoryError:
                self._give_back()
                if time.perf_counter() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def op_measure(
        self, entries: Sequence[Any], seed: int, seconds: float, cores: Sequence[int] = ()
    ) -> tuple[Any, list[Any]]:
        """Judge and time. ``entries`` are candidates with their artifacts, ``seconds`` bound the rounds of
        one finalist. Whoever calls has the device for himself, and ``cores``, where there are any.

        Raises:
            KevolveError: a candidate took the device down; ``got`` is its number in ``entries``.
        """
        self._busy = 0.0
        self._note("")
        gc.freeze()  # what is there stays: collections would take most of the time
        try:
            with torch.no_grad(), on(cores):
                found = self._measured(entries, seed, seconds)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold tensors, and others wait for the memory
            with contextlib.suppress(Exception):  # a lost device refuses this as well; `error` says why
                self._clear()
            raise
        finally:
            gc.unfreeze()
        self._clear()
        return found | {"timed_s": self._busy}, []

    # --- one problem ----------------------------------------------------------------------------------------

    def _measured(self, entries: Sequence[Any], seed: int, seconds: float) -> dict[str, Any]:
        assert self._reference is not None
        clock = _Stopwatch()
        for call in self._baselines.values():
            if isinstance(call, CompiledAhead):
                call.arm()
        self._double = in_float64(self._reference)
        if self._double.module is not None:
            self._runner.to_device(self._double.module)
        base = AnsweredInputs(self._inputs(seed, "base"), self._reference.call, self._double)
        clock.lap("reference")
        baselines = {name: self._timed(name, call, base) for name, call in self._baselines.items()}
        baselines = {name: s for name, s in baselines.items() if s}
        if not baselines:
            raise KevolveError("no baseline runs", got="; ".join(self._broken.values()))
        best = min(median(s) for s in baselines.values())
        clock.lap("baselines")
        rows = [self._quick(number, entry, base, best) for number, entry in enumerate(entries)]
        clock.lap("candidates")
        order = sorted((r for r in rows if "seconds" in r), key=lambda r: float(r["seconds"]))
        checked: list[dict[str, Any]] = []
        if order:
            base.free()
            for row in order:
                if len(checked) == _FINALISTS:
                    break
                if self._holds(entries[row["number"]], seed, row):
                    checked.append(row)
            base = AnsweredInputs(self._inputs(seed + 1, "base"), self._reference.call, self._double)
        clock.lap("finalists")
        checked = [r for r in checked if r["seconds"] <= _CLOSE * checked[0]["seconds"]]
        races = [r for row in checked if (r := self._race(entries[row["number"]], row, base, seconds))]
        winner = min(races, key=lambda r: median(r["samples"]["candidate"]), default=None)
        if winner is not None:
            with self._blamed(winner["number"]):
                program = self._program(winner["number"], entries[winner["number"]])
                program(*base.inputs)  # the first call of all places constants on the device
                winner["remarks"] = self._remarks()
                winner["libraries"] = list(library_calls(program, base.inputs))
        clock.lap("race")
        return {
            "quick": baselines, "candidates": rows, "winner": winner, "broken": self._broken,
            "phases": clock.laps,
        }  # fmt: skip

    def _timed(self, name: str, call: Call, base: AnsweredInputs) -> list[float]:
        """A baseline's first timed calls; [] where it fails."""
        try:
            call(*base.inputs)
            return [self._seconds(call, base)[0] for _ in range(_QUICK)]
        except Exception as error:
            if unusable := self.unusable():
                what = f"the baseline {name} took the device down: {unusable}"
                raise WorkerError(what, got=BASELINE + name) from error
            self._broken[name] = f"{type(error).__name__}: {error}"[:300]
            return []

    def _quick(self, number: int, entry: Any, base: AnsweredInputs, best: float) -> dict[str, Any]:
        """Verdict on the base inputs and, where that is good, a few unpaired times."""
        row: dict[str, Any] = {"number": number}

        def attempt() -> str:
            program = self._program(number, entry)
            self._runner.poison(base.nbytes)
            got = program(*base.inputs)
            if reason := base.wrong(got, self._precision):
                return reason
            del got
            times = [self._seconds(program, base)[0]]
            if times[0] < _SLOW * best:
                times += [self._seconds(program, base)[0] for _ in range(_QUICK)]
            row["seconds"] = median(times[1:] or times)
            row["remarks"] = self._remarks()
            return ""

        row["reason"] = self._attempted(number, attempt)
        return row

    def _holds(self, entry: Any, seed: int, row: dict[str, Any]) -> bool:
        """Whether a candidate is right on the other families of test data too."""
        assert self._reference is not None

        def attempt() -> str:
            program = self._program(row["number"], entry)
            wrong = (self._wrong_on(program, seed, variant) for variant in VARIANTS[1:])
            return next((reason for reason in wrong if reason), "")

        row["reason"] = self._attempted(row["number"], attempt)
        return not row["reason"]

    def _wrong_on(self, program: Call, seed: int, variant: str) -> str:
        """Why a candidate is wrong on one family of test data, or ""; "" too where the reference refuses it.
        Nothing of the family's stays in memory."""
        assert self._reference is not None
        try:
            inputs = self._inputs(seed, variant)
            data = AnsweredInputs(inputs, self._reference.call, self._double)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # any refusal of the reference means: not defined there
            if unusable := self.unusable():
                raise WorkerError(f"the reference took the device down: {unusable}") from None
            return ""
        if variant != "special" and data.has_nan:
            return ""
        self._runner.poison(data.nbytes)
        reason = data.wrong(program(*inputs), self._precision)
        return f"on {variant} inputs: {reason}" if reason else ""

    def _race(
        self, entry: Any, row: Mapping[str, Any], base: AnsweredInputs, seconds: float
    ) -> dict[str, Any] | None:
        """A finalist and the baselines call by call; its last result judged again."""
        with self._blamed(row["number"]):
            program = self._program(row["number"], entry)
        sides = {name: call for name, call in self._baselines.items() if name not in self._broken}
        sides["candidate"] = program
        samples: dict[str, list[float]] = {name: [] for name in sides}
        order, rng = list(sides), random.Random(row["number"])
        deadline = time.perf_counter() + seconds
        last: Any = None
        for k in range(_MOST + 1):
            if k > _LEAST and time.perf_counter() > deadline:
                break
            rng.shuffle(order)
            for name in order:
                with self._blamed(row["number"]) if name == "candidate" else contextlib.nullcontext():
                    took, out = self._seconds(sides[name], base)
                if name == "candidate":
                    last = out
                del out
                if k:
                    samples[name].append(took)
        wrong = base.wrong(last, self._precision)
        return None if wrong else {"number": row["number"], "samples": samples}

    # --- parts ----------------------------------------------------------------------------------------------

    @property
    def _precision(self) -> Any:
        assert self._spec is not None
        return self._spec.precision

    def _remarks(self) -> dict[str, str]:
        return dict(self._runner.remarks()) if isinstance(self._runner, Remarking) else {}

    def _attempted(self, number: int, attempt: Callable[[], str]) -> str:
        """What is wrong with a candidate, its errors included."""
        try:
            with self._blamed(number):
                return attempt()
        except (WorkerError, _DeviceLostError):
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]

    @contextlib.contextmanager
    def _blamed(self, number: int) -> Iterator[None]:
        """Errors that leave the device unusable name the candidate that ran."""
        try:
            yield
        except WorkerError:
            raise
        except Exception as error:
            if unusable := self.unusable():
                raise _DeviceLostError(
                    "a candidate took the device down", got=number, where=unusable[:200]
                ) from error
            raise

    def _note(self, number: int | str) -> None:
        """Write down whose turn it is: the process may end without another word."""
        (self._workdir / MEASURING).write_text(str(number))

    def _seconds(self, call: Call, data: AnsweredInputs) -> tuple[float, Any]:
        runner = self._runner
        runner.poison(data.nbytes)
        runner.flush_cache()
        gc.disable()
        try:
            start = runner.timestamp()
            out = call(*data.inputs)
            end = runner.timestamp()
            runner.synchronize()
        finally:
            gc.enable()
        took = runner.elapsed(start, end)
        self._busy += took
        return took, out

    def _program(self, number: int, entry: Any) -> Call:
        """A candidate's program; the one before is forgotten."""
        self._note(number)
        assert self._spec is not None
        assert self._reference is not None
        candidate, artifact = (
            from_plain(Candidate, entry["candidate"]),
            from_plain(Artifact, entry["artifact"]),
        )
        folder = self._workdir / "candidate"
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in candidate.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._runner.reset()
        module = self._runner.load(artifact, folder)
        target: Any = exported(module, candidate.symbol, self._spec.reference.symbol)
        if isinstance(target, type):
            with self._home:  # weights of gigabytes are made where the reference's lie
                target = target(*self._reference.init_args, **self._reference.init_kwargs)
            assert self._reference.module is not None
            target.load_state_dict(self._reference.module.state_dict())
            target.train(self._spec.mode == "train").requires_grad_(False)
            target = self._runner.to_device(target)
        program: Call = target
        return program

    def _inputs(self, seed: int, variant: str) -> list[Any]:
        """Inputs of one family of test data, drawn on the device where the problem's code lets them be."""
        assert self._spec is not None
        assert self._reference is not None
        try:
            with self._home:
                given = given_by_file(self._spec, seed)
        except KevolveError:
            given = given_by_file(self._spec, seed)
        values = [self._placed(v) for v in given]
        if variant != "base":
            values = [
                transform(v, variant, generator(seed, i, variant, device=v.device), True, v.dtype)
                if isinstance(v, torch.Tensor) and is_free(v)
                else v
                for i, v in enumerate(values)
            ]
        drawn = (draw_tensor(s, "base", generator(seed, s.name), {}) for s in self._reference.random_inputs)
        return [*values, *(self._placed(v) for v in drawn)]

    def _placed(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.device != self._home:
            return self._runner.upload(value)
        return value

    def _clear(self) -> None:
        """Forget the problem, and give the device's memory back to the processes beside."""
        self._runner.reset()
        self._reference = self._spec = None
        self._double = None
        self._baselines = {}
        self._give_back()

    @staticmethod
    def _give_back() -> None:
        """Free what this process's allocator keeps: the others need it."""
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


class _DeviceLostError(KevolveError):
    """A candidate took the device down; ``got`` is its number."""


class _Stopwatch:
    """Wall-clock seconds of consecutive phases."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """A phase ends, the next one begins."""
        now = time.perf_counter()
        self.laps[name], self._since = round(now - self._since, 3), now
