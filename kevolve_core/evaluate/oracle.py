"""The oracle's side of the fence: draws inputs from secret seeds, knows the float64 answers, returns verdicts
only.

Runs in its own process. Expected outputs never leave it: it maps a candidate's output read-only and answers
with a reason. A *handle* is one drawn input set with, later, the answers on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import define, evolve, field

from kevolve_core.errors import SpecError
from kevolve_core.evaluate.tolerance import BaselineLeaf, baseline_leaf, compare, parity_bound, scale_of
from kevolve_core.evaluate.workload import compulsory_work
from kevolve_core.isolate.sandbox import hide_memory
from kevolve_core.isolate.tensors import Block, ReusableBlock, describe, flatten, open_block, pack_block
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.serial import from_plain
from kevolve_core.spec.runtime import (
    LoadedReference,
    draw_inputs,
    in_float64,
    layouts,
    load_reference,
    variants,
)

__all__ = ["OracleRole"]

#: Distributions whose draws are alike at every position, so that rotating a tensor gives another valid draw.
_ROTATABLE = frozenset({"normal", "uniform", "integers", "bernoulli", "choice"})
_POOL_LIFE = 4  # timed calls that one full draw serves, each with another rotation
_FIRST = 1 << 14  # elements of a worthless output that are looked at before all of it
_SMALL = 1 << 20  # elements under which everything is drawn anew for every call


@define
class _Handle:
    case: Case
    inputs: tuple[Any, ...]
    label: dict[str, Any]
    expected: list[Any] | None = None
    structure: Any = None
    baseline: list[Any] | None = None
    signature: list[str] = field(factory=list)
    scales: list[float] = field(factory=list)


class OracleRole:
    """Operations of the oracle process (see `kevolve_core.isolate.worker`).

    Args:
        spec: the spec as plain values.
        seed: of the reference's weights.
        secret: of every input drawn; never sent to a worker that runs candidates.
        threads: CPU threads for the float64 reference.
    """

    def __init__(self, spec: Any, seed: int, secret: int, threads: int) -> None:
        hide_memory()
        torch.set_num_threads(threads)
        self._spec = from_plain(KernelSpec, spec)
        self._seed = seed
        self._secret = secret
        self._rng = torch.Generator().manual_seed(secret % (1 << 62))
        self._references: dict[str, LoadedReference] = {}
        self._doubles: dict[str, LoadedReference] = {}
        self._handles: dict[int, _Handle] = {}
        self._pools: dict[str, tuple[int, int, tuple[Any, ...]]] = {}
        self._next = 0
        self._fresh = ReusableBlock()

    def op_plan(self, case: str) -> tuple[Any, list[Any]]:
        """Variants, layouts, sizes and random inputs of a case; runs the reference once, so a broken one
        fails here."""
        c = self._spec.case(case)
        handle = self._new_handle(c, "base", "contiguous", self._secret)
        leaves, structure = flatten(self._run(self._reference(c), handle.inputs))
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor):
                raise SpecError(
                    "the reference returns something that is no tensor",
                    got=type(leaf).__name__,
                    where=f"{self._spec.name}, case '{case}'",
                    mend="return tensors, in tuples, lists or dicts if there are several",
                )
        given = [t.numel() for t in handle.inputs if isinstance(t, torch.Tensor)]
        return {
            "hollow": bool(given) and not any(given),
            "variants": list(variants(self._spec, c)),
            "layouts": list(layouts(self._spec, c)),
            "elements": sum(t.numel() for t in (*handle.inputs, *leaves) if isinstance(t, torch.Tensor)),
            "output_bytes": sum(t.numel() * t.element_size() for t in leaves),
            "outputs": [describe(t) for t in leaves],
            "structure": structure,
            "random_inputs": [s.name for s in self._reference(c).random_inputs],
        }, []

    def op_state(self, case: str) -> tuple[Any, list[Any]]:
        """The module's weights (a block) and constructor arguments, for every side alike."""
        reference = self._reference(self._spec.case(case))
        state = {} if reference.module is None else dict(reference.module.state_dict())
        arguments = {"args": list(reference.init_args), "kwargs": dict(reference.init_kwargs)}
        block = pack_block(state)
        return {"is_module": reference.module is not None, "layout": block.layout, **arguments}, [block]

    def op_work(self, case: str) -> tuple[Any, list[Any]]:
        """Compulsory bytes and FLOPs of a case."""
        c = self._spec.case(case)
        inputs = draw_inputs(self._spec, c, self._secret)
        return compulsory_work(self._reference(c), inputs), []

    def op_draw(self, case: str, variant: str, layout: str, salt: int = 0) -> tuple[Any, list[Any]]:
        """A new handle with inputs of one variant and layout. ``salt`` tells repeated draws apart."""
        seed = (self._secret + 1_000_003 * salt) % (1 << 62)
        return self._publish(self._new_handle(self._spec.case(case), variant, layout, seed))

    def op_fresh(self, case: str) -> tuple[Any, list[Any]]:
        """A new handle whose data no earlier call has seen, cheaply: large tensors of position-independent
        draws are rotated by a secret amount, all else is drawn anew at least every few calls."""
        c = self._spec.case(case)
        left, seed, pool = self._pools.get(case, (0, 0, ()))
        small = sum(t.numel() for t in pool if isinstance(t, torch.Tensor)) < _SMALL
        if left <= 0 or small:
            seed = self._random(1 << 62)
            left, pool = _POOL_LIFE, draw_inputs(self._spec, c, seed)
        self._pools[case] = (left - 1, seed, pool)
        shifts = [self._random(t.numel()) if self._rotates(c, i, t) else 0 for i, t in enumerate(pool)]
        inputs = tuple(_rotated(t, s) if s else t for t, s in zip(pool, shifts, strict=True))
        label = {"case": case, "variant": "base", "layout": "contiguous", "seed": seed, "rotation": shifts}
        return self._publish(_Handle(c, inputs, label), self._fresh.fill(list(inputs)))

    def op_drop(self, handle: int) -> tuple[Any, list[Any]]:
        """Forget a handle."""
        self._handles.pop(handle, None)
        return None, []

    def op_baseline(self, fds: Sequence[int], handle: int, layout: Any) -> tuple[Any, list[Any]]:
        """Take the eager baseline's output on a handle: it fixes structure, dtypes and the parity bound."""
        h = self._answered(handle)
        leaves, structure = flatten(open_block(fds[0], layout, copy=True))
        h.structure = structure
        h.signature = [describe(leaf) for leaf in leaves]
        assert h.expected is not None
        h.baseline = [baseline_leaf(v, r) for v, r in zip(leaves, h.expected, strict=True)]
        return {"errors": [b.error for b in h.baseline]}, []

    def op_judge(self, fds: Sequence[int], handle: int, layout: Any) -> tuple[Any, list[Any]]:
        """Judge an output. Answers ``{"ok": true}`` or ``{"ok": false, "reason": …, "detail": …}``."""
        h = self._answered(handle)
        leaves, structure = flatten(open_block(fds[0], layout))
        return {**self._judged(h, leaves, structure), "label": h.label}, []

    def op_agree(
        self, fds: Sequence[int], like: int, layout: Any, baseline_layout: Any
    ) -> tuple[Any, list[Any]]:
        """Whether a candidate's output (first descriptor) agrees with the eager baseline's on the same input
        (second) about as well as the bound of handle ``like``, of the same distribution, lets two right
        results agree.

        A cheap check that a timed call did its work: yes is enough for that, no is no verdict but a reason to
        judge.
        """
        h = self._answered(like)
        leaves, structure = flatten(open_block(fds[0], layout))
        others, other_structure = flatten(open_block(fds[1], baseline_layout))
        if structure != other_structure or [describe(v) for v in leaves] != [describe(v) for v in others]:
            return {"agree": False}, []
        sides = zip(leaves, others, h.scales, h.baseline or (), strict=True)
        return {"agree": all(self._agrees(*side) for side in sides)}, []

    def _agrees(self, leaf: torch.Tensor, other: torch.Tensor, scale: float, baseline: BaselineLeaf) -> bool:
        if not leaf.is_floating_point():
            return bool(torch.equal(leaf, other))
        if self._spec.precision.policy == "relaxed" or leaf.numel() == 0:
            return not leaf.numel()
        difference = float((leaf - other).abs_().max())  # NaN where either has one: no agreement
        return difference <= 2 * parity_bound(leaf.dtype, scale, baseline)

    def op_audit(self, case: str) -> tuple[Any, list[Any]]:
        """Which worthless outputs the tolerance would accept on every variant of a case: zeros, a constant,
        an input's copy, another input's output. Infinities and NaN do not count: that zeros are wrong there
        says nothing about all other inputs."""
        c = self._spec.case(case)
        accepted: set[str] | None = None
        for variant in [v for v in variants(self._spec, c) if v != "special"]:
            h = self._new_handle(c, variant, "contiguous", self._secret)
            other = self._new_handle(c, variant, "contiguous", self._secret + 1)
            own = self._run(self._reference(c), h.inputs)
            leaves, structure = flatten(own)
            h.expected, h.structure = self._double_leaves(h), structure
            h.signature = [describe(leaf) for leaf in leaves]
            h.baseline = [baseline_leaf(v, r) for v, r in zip(leaves, h.expected, strict=True)]
            h.scales = _scales(h.expected)
            passing = set()
            for name, fake in self._fakes(h, leaves, other):
                if not self._wrong_at_once(h, fake) and self._judged(h, fake, structure)["ok"]:
                    passing.add(name)
            accepted = passing if accepted is None else accepted & passing
            if not accepted:
                break
        return {"accepted": sorted(accepted or ())}, []

    def _wrong_at_once(self, h: _Handle, leaves: list[Any]) -> bool:
        """Whether the first few elements are wrong already, by any reading of the tolerance: most worthless
        outputs are wrong everywhere."""
        assert h.expected is not None
        assert h.baseline is not None
        for leaf, expected, baseline, scale in zip(leaves, h.expected, h.baseline, h.scales, strict=True):
            first, right = leaf.reshape(-1)[:_FIRST], expected.reshape(-1)[:_FIRST]
            value = None if baseline.value is None else baseline.value.reshape(-1)[:_FIRST]
            own = evolve(baseline, value=value)
            if compare(first, right, own, self._spec.precision, scale, units=True) is not None:
                return True
        return False

    def _fakes(self, h: _Handle, leaves: list[Any], other: _Handle) -> list[tuple[str, list[Any]]]:
        others = flatten(self._run(self._reference(h.case), other.inputs))[0]
        fakes = [
            ("zeros", [torch.zeros_like(v) for v in leaves]),
            ("another input's output", others),
        ]
        if any(v.numel() > 1 for v in leaves):  # a single number would be its own constant
            fakes.append(("a constant", [_constant(v, o) for v, o in zip(leaves, others, strict=True)]))
        tensors = [t for t in h.inputs if isinstance(t, torch.Tensor)]
        for i, t in enumerate(tensors):
            if all(t.shape == v.shape and t.dtype == v.dtype for v in leaves):
                fakes.append((f"a copy of input {i}", [t for _ in leaves]))
        return fakes

    def _judged(self, h: _Handle, leaves: list[Any], structure: Any) -> dict[str, Any]:
        assert h.expected is not None
        if structure != h.structure:
            return _wrong("the result has another tree structure", got=structure, expected=h.structure)
        for i, (leaf, signature) in enumerate(zip(leaves, h.signature, strict=True)):
            if not isinstance(leaf, torch.Tensor) or describe(leaf) != signature:
                return _wrong(f"output {i} has another type", got=describe(leaf), expected=signature)
        baselines: list[BaselineLeaf | None] = list(h.baseline or [None] * len(leaves))
        scales: list[float | None] = [*h.scales] or [None] * len(leaves)
        for i, (leaf, expected, baseline) in enumerate(zip(leaves, h.expected, baselines, strict=True)):
            mismatch = compare(leaf, expected, baseline, self._spec.precision, scales[i])
            if mismatch is not None:
                where = f"output {i}: " if len(leaves) > 1 else ""
                return _wrong(where + mismatch.reason, output=i, **mismatch.detail())
        return {"ok": True}

    def _answered(self, handle: int) -> _Handle:
        h = self._handles[handle]
        if h.expected is None:
            h.expected = self._double_leaves(h)
            if not h.signature:  # until the eager baseline says: the declared-dtype reference does
                leaves, h.structure = flatten(self._run(self._reference(h.case), h.inputs))
                h.signature = [describe(leaf) for leaf in leaves]
                h.baseline = [baseline_leaf(v, r) for v, r in zip(leaves, h.expected, strict=True)]
        if not h.scales:
            h.scales = _scales(h.expected)
        return h

    def _double_leaves(self, h: _Handle) -> list[Any]:
        case = h.case.name
        if case not in self._doubles:
            self._doubles[case] = in_float64(self._reference(h.case))
        leaves, _ = flatten(self._run(self._doubles[case], h.inputs))
        return [leaf.contiguous() for leaf in leaves]

    def _reference(self, case: Case) -> LoadedReference:
        if case.name not in self._references:
            self._references[case.name] = load_reference(self._spec, case, self._seed)
        return self._references[case.name]

    @staticmethod
    def _run(reference: LoadedReference, inputs: tuple[Any, ...]) -> Any:
        """Run on copies: a reference may write into its inputs and its own buffers."""
        copies = [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
        before = _buffers(reference)
        with torch.no_grad():
            out = reference.call(*copies)
        for buffer, value in before:
            buffer.copy_(value)
        return out

    def _new_handle(self, case: Case, variant: str, layout: str, seed: int) -> _Handle:
        inputs = draw_inputs(self._spec, case, seed, variant, layout)
        label = {"case": case.name, "variant": variant, "layout": layout, "seed": seed}
        return _Handle(case, inputs, label)

    def _publish(self, h: _Handle, block: Block | None = None) -> tuple[Any, list[Any]]:
        self._next += 1
        self._handles[self._next] = h
        block = block or pack_block(list(h.inputs))
        return {"handle": self._next, "label": h.label, "layout": block.layout}, [block]

    def _rotates(self, case: Case, position: int, tensor: Any) -> bool:
        if not isinstance(tensor, torch.Tensor) or tensor.numel() < 2 or not tensor.is_contiguous():
            return False
        if position < len(case.inputs):
            return case.inputs[position].distribution.kind in _ROTATABLE
        return bool(tensor.is_floating_point())

    def _random(self, bound: int) -> int:
        return int(torch.randint(0, max(1, bound), (), generator=self._rng))


def _scales(expected: Sequence[torch.Tensor]) -> list[float]:
    return [scale_of(e) if e.is_floating_point() else 0.0 for e in expected]


def _constant(leaf: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A leaf's first value everywhere; of a single number, another input's."""
    return torch.full_like(leaf, leaf.reshape(-1)[0].item()) if leaf.numel() > 1 else other


def _rotated(tensor: torch.Tensor, shift: int) -> torch.Tensor:
    flat = tensor.reshape(-1)
    out = torch.empty_like(flat)
    out[shift:] = flat[: flat.numel() - shift]
    out[:shift] = flat[flat.numel() - shift :]
    return out.reshape(tensor.shape)


def _buffers(reference: LoadedReference) -> list[tuple[torch.Tensor, torch.Tensor]]:
    if reference.module is None or not reference.module.training:
        return []
    return [(b, b.clone()) for b in reference.module.buffers()]


def _wrong(reason: str, **detail: Any) -> dict[str, Any]:
    return {"ok": False, "reason": reason, "detail": detail}
