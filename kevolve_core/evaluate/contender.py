"""A side of the race: the worker role that runs a candidate or the baselines, with primitives of the
backend's runner.

It is told what to load and which inputs to use, and answers with seconds and outputs. It never holds an
expected output or a seed. Whatever a candidate could forge here is checked elsewhere: outputs by the oracle,
times by the parent's clock.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import math
import time
import types
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import profiler

from kevolve_core.errors import KevolveError
from kevolve_core.interfaces import BackendRef, Remarking
from kevolve_core.isolate import sandbox
from kevolve_core.isolate.entry import exported
from kevolve_core.isolate.tensors import flatten, open_block, pack_block, unflatten
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Artifact, Device
from kevolve_core.registry import load_backend
from kevolve_core.serial import from_plain
from kevolve_core.spec.runtime import load_reference

__all__ = ["ContenderRole", "library_calls", "scrub"]

#: ATen operators that compute and move nothing: what a candidate may call without it being reported.
_SILENT = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "as_strided", "view",
     "reshape", "permute", "transpose", "t", "expand", "slice", "select", "detach", "alias", "squeeze",
     "unsqueeze", "split", "unbind", "view_as", "_unsafe_view", "_reshape_alias", "resize_", "lift_fresh",
     "is_same_size", "unfold", "split_with_sizes", "chunk", "narrow", "movedim", "expand_as",
     "_local_scalar_dense", "is_contiguous", "resolve_conj", "resolve_neg"}
)  # fmt: skip

_PLAIN = (torch.Tensor, torch.nn.Parameter)


class ContenderRole:
    """Operations of a contender process (see `kevolve_core.isolate.worker`).

    Args:
        ref: the backend, as plain values.
        device: the device, as plain values.
        spec: the spec as plain values; None for a process that runs candidates, which never sees the
        reference.
        threads: CPU threads for torch.
        workdir: scratch directory.
        grants: system calls that the plugin's grants open: ``network``, ``write``.
        narrowed: what already narrows them, in words.
    """

    def __init__(
        self,
        ref: Any,
        device: Any,
        spec: Any | None,
        threads: int,
        workdir: str,
        grants: Sequence[str] = (),
        narrowed: str = "",
    ) -> None:
        torch.set_num_threads(threads)
        self._spec = None if spec is None else from_plain(KernelSpec, spec)
        backend = load_backend(from_plain(BackendRef, ref))
        self._runner = backend.runner(from_plain(Device, device))
        with profiler.profile():  # opens what it needs, and starts its thread, while that is still allowed
            pass
        self._runner.open(Path(workdir))
        self._workdir = workdir
        if self._spec is None:
            refused = sandbox.confine(network="network" in grants, write="write" in grants)
            self._sandbox = "; ".join(part for part in (refused, narrowed) if part)
        else:
            sandbox.hide_memory()
            self._sandbox = "trusted"
        self._programs: dict[str, Callable[..., Any]] = {}
        self._program: Callable[..., Any] | None = None
        self._pristine = _fingerprint()
        self._inputs: list[Any] = []
        self._buffers: frozenset[type] = (
            frozenset()
        )  # what `upload` gives: tensors, or a device's own buffers
        self._original: list[Any] = []
        self._output: Any = None
        self._previous: Any = None

    def unusable(self) -> str:
        """Why this process must be replaced after an operation failed: a device's error may outlast the call
        that made it and fail every later one. "" where the device still answers."""
        try:
            self._runner.synchronize()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def op_info(self) -> tuple[Any, list[Any]]:
        """What confines this process, in words."""
        return {"sandbox": self._sandbox, "threads": torch.get_num_threads()}, []

    def op_load(
        self,
        fds: Sequence[int],
        key: str,
        artifact: Any,
        folder: str,
        symbol: str,
        fallback_symbol: str,
        state: Any,
        training: bool,
    ) -> tuple[Any, list[Any]]:
        """Import a candidate, construct it and give it the reference's weights."""
        weights = open_block(fds[0], state["layout"], copy=True)
        module = self._runner.load(from_plain(Artifact, artifact), Path(folder))
        target: Any = exported(module, symbol, fallback_symbol)
        if inspect.isclass(target):
            target = target(*state["args"], **state["kwargs"])
        if isinstance(target, torch.nn.Module):
            _check_state(target, weights)
            target.load_state_dict(weights)
            target.train(training).requires_grad_(False)
            target = self._runner.to_device(target)
        elif weights and hasattr(target, "load_state_dict"):  # a program that PyTorch does not know
            target.load_state_dict({name: self._runner.upload(value) for name, value in weights.items()})
        self._programs[key] = target
        return None, []

    def op_load_baseline(
        self, fds: Sequence[int], key: str, factory: str, case: str, state: Any
    ) -> tuple[Any, list[Any]]:
        """Build a baseline from the reference, with the same weights as every other side."""
        assert self._spec is not None
        reference = load_reference(self._spec, self._spec.case(case), 0)
        if reference.module is not None:
            reference.module.load_state_dict(open_block(fds[0], state["layout"], copy=True))
            self._runner.to_device(reference.module)
        module, _, name = factory.partition(":")
        self._programs[key] = getattr(importlib.import_module(module), name)(reference.call)
        return None, []

    def op_forget(self) -> tuple[Any, list[Any]]:
        """Drop every program and the candidate's module."""
        self._scrub(self._previous)
        self._scrub(self._output)
        self._programs.clear()
        self._program = self._output = self._previous = None
        self._inputs = []
        self._runner.reset()
        gc.collect()
        return None, []

    def op_prepare(
        self, fds: Sequence[int], key: str, layout: Any, flush: bool, poison: int
    ) -> tuple[Any, list[Any]]:
        """Fresh device copies of the inputs at new addresses, free memory poisoned, caches flushed."""
        self._program = self._programs[key]
        self._scrub(self._previous)
        self._previous, self._output = self._output, None
        leaves, structure = flatten(open_block(fds[0], layout, trusted=True))
        self._original = leaves
        moved = [
            self._runner.upload(v, guarded=not flush) if isinstance(v, torch.Tensor) else v for v in leaves
        ]
        self._buffers = frozenset(
            type(m) for m, v in zip(moved, leaves, strict=True) if isinstance(v, torch.Tensor)
        )
        self._inputs = unflatten(structure, moved)
        gc.collect(0)
        if poison:
            self._runner.poison(poison)
        if flush:
            self._runner.flush_cache()
        self._runner.synchronize()
        return None, []

    def op_run(self, counters: bool = False) -> tuple[Any, list[Any]]:
        """One call on the prepared inputs. ``seconds`` is the device's time for it; with ``counters``, what
        the runner counted during it too."""
        program, runner = self._program, self._runner
        assert program is not None
        inputs = self._inputs
        before = runner.counters() if counters else {}
        gc.disable()
        try:
            with torch.no_grad():
                start = runner.timestamp()
                output = program(*inputs)
                end = runner.timestamp()
            runner.synchronize()
        finally:
            gc.enable()
        self._output = output
        after = runner.counters() if counters else {}
        counted = {name: value - before.get(name, 0.0) for name, value in after.items()}
        return {"seconds": runner.elapsed(start, end), "counters": counted}, []

    def op_inspect(self) -> tuple[Any, list[Any]]:
        """Look the process over after a call: functions that were patched, activity that outlives the call,
        an output in the memory of the output before, which is still held here."""
        return {
            "foreign": self._runner.foreign_activity(),
            "patched": _patched(self._pristine),
            "reused": bool(self._memory(self._previous) & self._memory(self._output)),
        }, []

    def op_collect(self) -> tuple[Any, list[Any]]:
        """The last output as a block, tensor subclasses (and tensors that are none of the device's) in it,
        and which inputs the call changed."""
        leaves, structure = flatten(self._output)
        plain = _PLAIN if self._buffers <= set(_PLAIN) else tuple(self._buffers)
        subclasses = [
            type(v).__name__ for v in leaves if isinstance(v, torch.Tensor) and type(v) not in plain
        ]
        host = [self._host(v) for v in leaves]
        changed = [
            i
            for i, (now, then) in enumerate(zip(flatten(self._inputs)[0], self._original, strict=True))
            if isinstance(then, torch.Tensor) and not _same_bits(self._host(now), then)
        ]
        block = pack_block(unflatten(structure, host), keep_strides=False)
        return {"layout": block.layout, "changed": changed, "subclasses": subclasses}, [block]

    def _host(self, leaf: Any) -> Any:
        """A device buffer as a CPU tensor; a plain value as it is."""
        if not isinstance(leaf, torch.Tensor) and type(leaf) not in self._buffers:
            return leaf
        value = self._runner.download(leaf)
        if not isinstance(value, torch.Tensor):
            raise KevolveError(
                "the runner's download gives no tensor",
                got=type(value).__name__,
                where="Runner.download",
                mend="return a CPU tensor",
            )
        return value

    def _scrub(self, tree: Any) -> None:
        """Overwrite a candidate's result before its memory is free: the next candidate's output may lie
        there, out of reach of `Runner.poison` where an allocator keeps free memory by size."""
        if self._spec is None:
            kept = [p.state_dict() for p in self._programs.values() if isinstance(p, torch.nn.Module)]
            scrub(tree, spared=_storages(kept))

    def _memory(self, tree: Any) -> set[int]:
        """What tells the memory of a result's leaves apart while they live: the addresses of tensors, the
        identity of a device's own buffers."""
        own = {
            id(v) for v in flatten(tree)[0] if type(v) in self._buffers and not isinstance(v, torch.Tensor)
        }
        return _storages(tree) | own

    def op_trace(self) -> tuple[Any, list[Any]]:
        """Library operators that one call on the prepared inputs enters, outermost only, as PyTorch's own
        profiler sees them: it is below everything that Python can do. Also what the runner has to say about
        earlier calls."""
        assert self._program is not None
        runner = self._runner
        remarks = dict(runner.remarks()) if isinstance(runner, Remarking) else {}
        return {"library_calls": list(library_calls(self._program, self._inputs)), "remarks": remarks}, []


def library_calls(program: Callable[..., Any], inputs: Sequence[Any]) -> tuple[str, ...]:
    """Operators of PyTorch's library (``aten::mm``) that one call enters, outermost only, in order; those
    that only allocate or view are left out."""
    with torch.no_grad(), profiler.profile() as seen:
        program(*inputs)
    outer = [e.name for e in seen.function_events if e.cpu_parent is None and "::" in e.name]
    return tuple(dict.fromkeys(n for n in outer if n.partition("::")[2] not in _SILENT))


def scrub(tree: Any, spared: Collection[int] = ()) -> None:
    """Fill the memory of a result's tensors with ones: NaN in floats, -1 in integers; not storage at an
    address in ``spared``. What PyTorch does not know is left to its runner."""
    for leaf in flatten(tree)[0]:
        if type(leaf) is torch.Tensor and not _storages(leaf) & set(spared) and _storages(leaf):
            whole = torch.empty(0, dtype=torch.uint8, device=leaf.device).set_(leaf.untyped_storage())
            whole.fill_(255)


def _storages(tree: Any) -> set[int]:
    """Addresses of the memory that the tensors of a result lie in."""
    tensors = [v for v in flatten(tree)[0] if isinstance(v, torch.Tensor) and v.numel()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.layout is torch.strided} - {0}


def _check_state(module: Any, weights: dict[str, Any]) -> None:
    own = module.state_dict()
    missing, unexpected = sorted(weights.keys() - own.keys()), sorted(own.keys() - weights.keys())
    if missing or unexpected:
        raise KevolveError(
            "the candidate's state does not match the reference's",
            got=f"missing {missing}, unexpected {unexpected}",
            mend="register parameters and buffers under the reference's names",
        )


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit equality, so that NaN equals itself and -0.0 is not 0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.numel() == 0:
        return True
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(a.element_size())
    if width is None or a.is_complex():
        return bool(torch.equal(torch.view_as_real(a), torch.view_as_real(b)))
    return bool(torch.equal(a.contiguous().view(width), b.contiguous().view(width)))


_WATCHED: tuple[Any, ...] = (
    torch, torch.Tensor, torch.nn.functional, torch.nn.Module, time, math, gc,
    __import__("builtins"), __import__("socket").socket, __import__("json"), __import__("mmap"),
)  # fmt: skip


def _fingerprint() -> dict[tuple[int, str], int]:
    """Identity of every function that judging and timing lean on, taken before candidate code is loaded."""
    own = [
        importlib.import_module(m)
        for m in ("kevolve_core.isolate.channel", "kevolve_core.isolate.tensors", __name__)
    ]
    classes = [v for m in own for v in vars(m).values() if inspect.isclass(v) and v.__module__ == m.__name__]
    return {
        (i, name): id(value)
        for i, owner in enumerate((*_WATCHED, *own, *classes))
        for name, value in vars(owner).items()
        if callable(value) and not isinstance(value, types.ModuleType)
    }


def _patched(before: dict[tuple[int, str], int]) -> str:
    """Names of watched functions that are no longer what they were, or ""."""
    now = _fingerprint()
    changed = sorted({name for (i, name), value in before.items() if now.get((i, name), value) != value})
    return ", ".join(changed[:5])
