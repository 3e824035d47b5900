"""Correctness of the first drafts for a problem, with the evaluator's data, oracle and tolerance but in one
process a core and without timing: a few minutes for hundreds of problems.

As in a run, a draft that is wrong is not the end: the next one may be, for instance, the same with its
memory in another order. Parity is a bound on two errors that are both noise where a network is deep; a row
says which drafts were wrong, and how.

What it accepts is not yet evidence that the evaluator would accept it (the sandbox, guarded pages and the
timing checks are missing); what it refuses, the evaluator refuses too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from kevolve_core.bench.shrink import SCALES, shrunk
from kevolve_core.errors import KevolveError
from kevolve_core.evaluate.contender import library_calls
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.evaluate.tolerance import baseline_leaf, compare
from kevolve_core.interfaces import BackendRef, Proposal
from kevolve_core.isolate.tensors import describe, flatten, unflatten
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Candidate, Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain
from kevolve_core.spec.runtime import draw_inputs, in_float64, layouts, load_reference, variants
from kevolve_core.synth import SynthGenerator
from kevolve_core.synth.reference import graph_of

__all__ = ["DECLARED", "CheckRole", "Checked", "is_generated"]

#: Library operators that a generated solution may call: products and convolutions, declared as such.
DECLARED = frozenset(["mm", "bmm", "addmm", "baddbmm", "addmv", "mv", "matmul", "linear", "convolution"])
_LARGE = 1 << 21  # elements beyond which one variant beside the base one is tried

Checked = dict[str, Any]


def is_generated(calls: Sequence[str]) -> bool:
    """Whether a candidate that calls these ATen operators computes everything else itself. Moves into a
    caller's buffer (``copy_``), allocations and buffers that change hands compute nothing."""
    silent = {"copy_", "empty", "empty_strided", "set_"}
    names = {c.removeprefix("aten::").split(".")[0].removesuffix("_out") for c in calls}
    return names <= DECLARED | silent | {"mkldnn_convolution", "_convolution"}


class CheckRole:
    """Operations of a checking process (see `kevolve_core.isolate.worker`).

    Args:
        ref: the backend, as plain values.
        device: one of its devices, as plain values.
        language: of the candidates; "" for the generator's own choice.
        threads: CPU threads of references and candidates.
        workdir: scratch directory.
    """

    def __init__(self, ref: Any, device: Any, language: str, threads: int, workdir: str) -> None:
        torch.set_num_threads(threads)
        self._backend = load_backend(from_plain(BackendRef, ref))
        self._device = from_plain(Device, device)
        renderers = dict(self._backend.renderers())
        self._renderers = {k: v for k, v in renderers.items() if not language or k == language}
        self._compiler = self._backend.compiler(self._device)
        self._runner = self._backend.runner(self._device)
        self._workdir = Path(workdir)
        self._runner.open(self._workdir)
        probe = self._runner.upload(torch.zeros(1))
        #: PyTorch knows the device, and it is not the host: the eager side runs there, as in the evaluator.
        self._apart = isinstance(probe, torch.Tensor) and probe.device.type != "cpu"

    def op_shrink(self, source: str, scale: str, where: str) -> tuple[Any, list[Any]]:
        """``source`` at a scale (see `shrunk`)."""
        with torch.random.fork_rng():
            return {"source": shrunk(source, SCALES[scale], where)}, []

    def op_check(self, spec: Any, seed: int, secret: int, drafts: int = 1) -> tuple[Any, list[Any]]:
        """A row for one spec: verdict, library calls, seconds. What the generator refuses, the compiler or
        the tolerance, is in the row; crashes and hangs are the parent's to see. At most ``drafts`` are
        judged."""
        wanted = from_plain(KernelSpec, spec)
        row: Checked = {"correct": False, "generated_correct": False, "reason": "", "libraries": []}
        try:
            self._checked(wanted, seed, secret, drafts, row)
        except KevolveError as error:
            row["reason"] = row["reason"] or f"{type(error).__name__}: {error}"
        finally:
            self._runner.reset()
        return row, []

    def _checked(self, spec: KernelSpec, seed: int, secret: int, drafts: int, row: Checked) -> None:
        generator = self._generator(spec, row)
        for sequence in range(drafts):
            row["reason"] = ""
            candidate = self._proposed(generator, spec, seed, sequence, row)
            row["declared"] = list(candidate.libraries)
            if violations := check_candidate(candidate):
                row["reason"] = f"rule violation: {violations[0]}"
                return
            self._tried(spec, candidate, seed, secret, row)
            if not row["reason"]:
                row["correct"] = True
                row["generated_correct"] = is_generated(row["libraries"])
                return
            row.setdefault("wrong_drafts", []).append(row["reason"])

    def _tried(self, spec: KernelSpec, candidate: Candidate, seed: int, secret: int, row: Checked) -> None:
        start = time.perf_counter()
        artifact = self._compiler.compile(candidate, spec, spec.cases[0], self._device.target)
        row["compile_s"] = round(time.perf_counter() - start, 3)
        folder = self._materialised(candidate)
        self._runner.reset()
        module = self._runner.load(artifact, folder)
        row.pop("traced", None)
        for each in spec.cases:
            program = self._program(spec, each, seed, module, candidate)
            self._judge(spec, each, seed, secret, program, row)
            if row["reason"]:
                return

    def _generator(self, spec: KernelSpec, row: Checked) -> SynthGenerator:
        row["capture_s"] = 0.0

        def captured(given: KernelSpec, case: Case) -> Any:
            start = time.perf_counter()
            graph = graph_of(given, case)
            row["capture_s"] = round(row["capture_s"] + time.perf_counter() - start, 3)
            row["nodes"] = len(graph.nodes)
            return graph

        return SynthGenerator(
            spec, self._renderers, self._backend.schedule_space, self._device, graph=captured
        )

    def _proposed(
        self, generator: SynthGenerator, spec: KernelSpec, seed: int, sequence: int, row: Checked
    ) -> Candidate:
        start = time.perf_counter()
        try:
            (candidate,) = generator.propose_now(Proposal(spec, self._device, sequence, seed), 1)
        finally:
            row.setdefault("first_proposal_s", round(time.perf_counter() - start, 3))
        row["steps"] = len(generator.programs()[0].steps)
        row["language"] = candidate.language
        return candidate

    def _materialised(self, candidate: Candidate) -> Path:
        folder = self._workdir / "candidate"
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in candidate.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    def _program(
        self, spec: KernelSpec, case: Case, seed: int, module: Any, candidate: Candidate
    ) -> Callable[..., Any]:
        self._reference = load_reference(spec, case, seed)
        names = (candidate.symbol,) if candidate.symbol else ("ModelNew", spec.reference.symbol)
        target: Any = next(getattr(module, n) for n in names if hasattr(module, n))
        if isinstance(target, type):
            target = target(*self._reference.init_args, **self._reference.init_kwargs)
            assert self._reference.module is not None
            target.load_state_dict(self._reference.module.state_dict())
            target.train(spec.mode == "train").requires_grad_(False)
            target = self._runner.to_device(target)
        program: Callable[..., Any] = target
        return program

    def _judge(
        self,
        spec: KernelSpec,
        case: Case,
        seed: int,
        secret: int,
        program: Callable[..., Any],
        row: Checked,
    ) -> None:
        double = in_float64(self._reference)
        eager = self._eager(spec, case, seed)
        todo = [(v, "contiguous") for v in variants(spec, case)]
        todo += [("base", layout) for layout in layouts(spec, case) if layout != "contiguous"]
        checked = 0
        for variant, layout in todo:
            inputs = draw_inputs(spec, case, secret, variant, layout)
            if checked > 1 and sum(t.numel() for t in inputs if isinstance(t, torch.Tensor)) > _LARGE:
                break
            reason = self._compared(spec, double.call, eager, program, inputs, row)
            checked += 1
            if reason:
                row["reason"] = f"wrong result on {variant} {layout} inputs: {reason}"
                break
        row["checked"] = checked

    def _eager(self, spec: KernelSpec, case: Case, seed: int) -> Callable[..., Any]:
        """The reference as the baseline runs it, from and to the host's memory; on the host where it makes
        tensors of its own there."""
        if not self._apart:
            return self._reference.call
        there = load_reference(spec, case, seed)
        if there.module is not None:
            self._runner.to_device(there.module)

        def call(*inputs: Any) -> Any:
            moved = [self._runner.upload(v) if isinstance(v, torch.Tensor) else v for v in inputs]
            try:
                leaves, structure = flatten(there.call(*moved))
            except RuntimeError as error:
                if "same device" not in str(error):
                    raise
                return self._reference.call(*inputs)
            return unflatten(structure, [self._host(leaf) for leaf in leaves])

        return call

    def _host(self, leaf: Any) -> Any:
        """A device buffer as a CPU tensor; a plain value as it is."""
        plain = leaf is None or isinstance(leaf, (bool, int, float, complex))
        return leaf if plain else self._runner.download(leaf)

    def _compared(
        self,
        spec: KernelSpec,
        double: Callable[..., Any],
        reference: Callable[..., Any],
        program: Callable[..., Any],
        inputs: Sequence[Any],
        row: Checked,
    ) -> str:
        with torch.no_grad():
            expected, _ = flatten(double(*_copies(inputs)))
            eager, structure = flatten(reference(*_copies(inputs)))
            given = [
                self._runner.upload(v, guarded=True) if isinstance(v, torch.Tensor) else v for v in inputs
            ]
            size = sum(t.numel() * t.element_size() for t in eager if isinstance(t, torch.Tensor))
            self._runner.poison(size)
            start = time.perf_counter()
            made, got_structure = flatten(program(*given))
            got = [self._host(leaf) for leaf in made]
            row["run_s"] = round(time.perf_counter() - start, 5)
            if "traced" not in row:
                row["traced"] = True
                row["libraries"] = list(library_calls(program, given))
        if structure != got_structure:
            return "the result has another tree structure"
        for k, (mine, theirs, exact) in enumerate(zip(got, eager, expected, strict=True)):
            if not isinstance(theirs, torch.Tensor):
                if isinstance(mine, torch.Tensor) or mine != theirs:
                    return f"output {k} differs"
                continue
            if not isinstance(mine, torch.Tensor) or describe(mine) != describe(theirs):
                return f"output {k} has another type"
            mismatch = compare(mine, exact.contiguous(), baseline_leaf(theirs, exact), spec.precision)
            if mismatch is not None:
                return f"output {k}: {mismatch.reason} {mismatch.detail()}"
        return ""


def _copies(inputs: Sequence[Any]) -> list[Any]:
    return [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
