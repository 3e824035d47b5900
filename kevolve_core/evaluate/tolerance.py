"""When is a result right? Scaled tolerances, judged leaf by leaf against a float64 reference.

``parity``: the largest absolute error may be twice that of the baseline on the same input, or four units of
the output type's epsilon times the output's scale, whichever is larger. The scale is the RMS of the finite
reference values; where their spread (standard deviation) is under 2 % of that, the spread is the scale, since
otherwise a constant would pass. Where the RMS is the scale, an element far above it may be wrong by two
epsilons of its own magnitude: that is its rounding. ``relaxed``: ``|out - ref| <= atol + rtol * |ref|``
everywhere. Non-finite values must stand where the reference, rounded to the output type, or the baseline has
the same ones. Integers and booleans equal the reference or the baseline.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import evolve, field, frozen

from kevolve_core.kernelspec import Precision

__all__ = [
    "BaselineLeaf",
    "Mismatch",
    "baseline_leaf",
    "compare",
    "parity_bound",
    "scale_of",
]

_SPREAD_SHARE = 0.02
#: Elements that are compared at a time: on the host what stays in its caches (0.20 to 0.24 s for 16 million
#: float32 elements with 2^16 and 2^18, 0.36 s at once); elsewhere enough to keep a device busy.
_HOST_PART, _DEVICE_PART = 1 << 18, 1 << 26


@frozen
class BaselineLeaf:
    """What one output leaf of the eager baseline contributes to the judgement of others on the same input:
    its error and, for integers and where something is not finite, its value."""

    error: float
    value: torch.Tensor | None = field(default=None, eq=False, repr=False)


@frozen
class Mismatch:
    """Why a leaf is wrong: worst element, its error and the bound. ``index`` is None for whole-tensor
    reasons."""

    reason: str
    index: tuple[int, ...] | None = None
    got: float | int | None = None
    expected: float | int | None = None
    error: float | None = None
    bound: float | None = None
    wrong_elements: int = 0

    def detail(self) -> dict[str, Any]:
        """JSON values for a verdict."""
        plain = {
            "index": list(self.index) if self.index is not None else None,
            "got": _json_number(self.got),
            "expected": _json_number(self.expected),
            "error": _json_number(self.error),
            "bound": _json_number(self.bound),
            "wrong_elements": self.wrong_elements,
        }
        return {k: v for k, v in plain.items() if v is not None}


def _json_number(value: float | int | None) -> float | int | str | None:
    if isinstance(value, float) and not (-float("inf") < value < float("inf")):
        return repr(value)
    return value


def scale_of(reference: torch.Tensor) -> float:
    """RMS of the finite values, or their spread where that is under 2 % of it; 0.0 for an empty tensor."""
    flat = reference.reshape(-1)
    if flat.numel() == 0:
        return 0.0
    rms: float = float(torch.linalg.vector_norm(flat)) / flat.numel() ** 0.5
    if not math.isfinite(rms):
        flat = flat[torch.isfinite(flat)]
        if flat.numel() == 0:
            return 0.0
        rms = float(torch.linalg.vector_norm(flat)) / flat.numel() ** 0.5
    if flat.numel() < 2 or rms == 0.0:
        return rms
    mean = float(flat.mean())
    if rms * rms - mean * mean > (2 * _SPREAD_SHARE * rms) ** 2:  # clearly spread: no second pass is needed
        return rms
    spread = float(flat.std(correction=0))
    return spread if spread < _SPREAD_SHARE * rms else rms


def baseline_leaf(value: torch.Tensor, reference: torch.Tensor) -> BaselineLeaf:
    """The baseline's own error against ``reference`` (float64, or the exact integers)."""
    if not value.is_floating_point():
        return BaselineLeaf(0.0, value)
    parts = [_errors(v, r)[1:] for v, r in zip(_parts(value), _parts(reference), strict=True)]
    finite = all(all_finite for _, all_finite in parts)
    return BaselineLeaf(max((worst for worst, _ in parts), default=0.0), None if finite else value)


def _errors(value: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, float, bool]:
    """Absolute errors with 0 where either side is not finite, the largest, and whether all were finite."""
    error = (value.to(torch.float64) - reference).abs_()
    worst = float(error.max()) if error.numel() else 0.0  # NaN if any is
    if math.isfinite(worst):
        return error, worst, True
    error[~(torch.isfinite(value) & torch.isfinite(reference))] = 0.0
    return error, float(error.max()), False


def parity_bound(dtype: torch.dtype, scale: float, baseline: BaselineLeaf | None) -> float:
    """The largest absolute error that ``parity`` allows."""
    epsilon: float = torch.finfo(dtype).eps
    return max(4 * epsilon * scale, 0.0 if baseline is None else 2 * baseline.error)


def _own_units(dtype: torch.dtype, reference: torch.Tensor, limit: float) -> torch.Tensor:
    """What elements far above the RMS may be wrong by beyond the bound: together two units of epsilon times
    their own magnitude."""
    own = reference.abs().nan_to_num_(0.0, 0.0)
    return own.mul_(2 * torch.finfo(dtype).eps).sub_(limit).clamp_min_(0.0)


def _is_rms(reference: torch.Tensor) -> bool:
    """Whether `scale_of` is the RMS. Where it is the spread, elements have no units of their own: a constant
    would pass."""
    total = 0.0
    for part in _parts(reference):
        finite = part[torch.isfinite(part)]
        total += float(torch.linalg.vector_norm(finite)) ** 2 if finite.numel() else 0.0
    rms: float = (total / reference.numel()) ** 0.5
    return scale_of(reference) >= rms * (1 - 1e-6)


def _parts(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A few million elements at a time: temporaries beside results of gigabytes do not fit a device."""
    size = _HOST_PART if value.device.type == "cpu" else _DEVICE_PART
    parts: tuple[torch.Tensor, ...] = value.reshape(-1).split(size)
    return parts


def compare(
    out: torch.Tensor,
    reference: torch.Tensor,
    baseline: BaselineLeaf | None,
    precision: Precision,
    scale: float | None = None,
    units: bool | None = None,
) -> Mismatch | None:
    """None when ``out`` is right.

    Args:
        out: the candidate's leaf, of the expected shape and dtype.
        reference: float64 values of the same shape (or exact integers or booleans).
        baseline: the eager baseline's leaf on the same input, where there is one.
        precision: the policy.
        scale: `scale_of` the reference, where the caller keeps it.
        units: whether elements far above the scale may be wrong by units of their own; by default where the
            scale is the RMS.
    """
    if out.numel() == 0:
        return None
    if not out.is_floating_point():
        return _compare_exact(out, reference, baseline)
    own = None if baseline is None or baseline.value is None else _parts(baseline.value)
    bound = 0.0
    if precision.policy == "parity":
        bound = parity_bound(out.dtype, scale_of(reference) if scale is None else scale, baseline)
    worst: Mismatch | None = None
    excess_of_worst, wrong_elements, start = 0.0, 0, 0
    for k, (o, r) in enumerate(zip(_parts(out), _parts(reference), strict=True)):
        error, worst_error, all_finite = _errors(o, r)
        if not all_finite:
            own_part = None if own is None else BaselineLeaf(0.0, own[k])
            mismatch = _compare_nonfinite(o, r.to(o.dtype), own_part)
            if mismatch is not None:
                (at,) = mismatch.index or (0,)
                return evolve(mismatch, index=_unravel(start + at, out.shape))
        bounds = None
        if precision.policy == "relaxed":
            bounds = r.abs().nan_to_num_(0.0, 0.0).mul_(precision.rtol).add_(precision.atol)
        elif not worst_error <= bound:  # a bound that is NaN lets nothing pass
            units = _is_rms(reference) if units is None else units
            bounds = _own_units(o.dtype, r, bound).add_(bound) if units else torch.full_like(error, bound)
        if bounds is not None:
            excess = error - bounds
            at = int(excess.argmax())  # of a NaN, where there is one
            if not float(excess[at]) <= excess_of_worst:
                excess_of_worst = float(excess[at])
                worst = Mismatch(
                    "values differ from the float64 reference by more than the tolerance",
                    _unravel(start + at, out.shape), o[at].item(), r[at].item(), float(error[at]),
                    bound if precision.policy == "parity" else float(bounds[at]),
                )  # fmt: skip
            wrong_elements += int((~(excess <= 0)).sum())
        start += o.numel()
    return None if worst is None else evolve(worst, wrong_elements=wrong_elements)


def _compare_exact(
    out: torch.Tensor, reference: torch.Tensor, baseline: BaselineLeaf | None
) -> Mismatch | None:
    wrong = out != reference.to(out.dtype)
    if baseline is not None and baseline.value is not None:
        wrong &= out != baseline.value
    if not bool(wrong.any()):
        return None
    index = _unravel(int(wrong.reshape(-1).to(torch.uint8).argmax()), out.shape)
    return Mismatch(
        "integers or booleans differ",
        index,
        out[index].item(),
        reference[index].item(),
        wrong_elements=int(wrong.sum()),
    )


def _compare_nonfinite(
    out: torch.Tensor, expected: torch.Tensor, baseline: BaselineLeaf | None
) -> Mismatch | None:
    """Infinities must equal, NaN must meet NaN: with the rounded reference or with the baseline."""
    suspicious = ~(torch.isfinite(out) & torch.isfinite(expected))
    if not bool(suspicious.any()):
        return None
    same = _same_nonfinite(out, expected)
    if baseline is not None and baseline.value is not None:
        same |= _same_nonfinite(out, baseline.value)
    wrong = suspicious & ~same
    if not bool(wrong.any()):
        return None
    index = _unravel(int(wrong.reshape(-1).to(torch.uint8).argmax()), out.shape)
    what = "NaN" if bool(torch.isnan(out[index])) else "infinity or NaN"
    return Mismatch(
        f"{what} where the reference has something else",
        index,
        out[index].item(),
        expected[index].item(),
        wrong_elements=int(wrong.sum()),
    )


def _same_nonfinite(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (
        (torch.isnan(a) & torch.isnan(b))
        | (torch.isinf(a) & (a == b))
        | (torch.isfinite(a) & torch.isfinite(b))
    )


def _unravel(flat: int, shape: torch.Size) -> tuple[int, ...]:
    index = []
    for n in reversed(shape):
        index.append(flat % n)
        flat //= n
    return tuple(reversed(index))
