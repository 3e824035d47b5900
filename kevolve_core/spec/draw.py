"""Values of declared inputs: one tensor from an `InputSpec`, a variant of the test data and a generator.

Imports torch; used in worker processes only. A distribution with declared bounds, and every integer one, is a
promise of the caller: no variant leaves it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import InputSpec

__all__ = ["VARIANTS", "constrained", "draw_tensor", "generator", "laid_out", "takes_special", "transform"]

#: Families of test data. The first is the one that is timed.
VARIANTS = ("base", "large", "sparse", "structured", "special")

_KEEP = 1 / 16  # share of entries that "sparse" leaves as they are; estimated
_LARGE = 1024.0  # factor of "large": squares and sums of thousands of them stay finite in float32; estimated
_LARGE_HALF = 32.0  # the same for float16, whose largest value is 65504; estimated
_ROW_EXPONENT = 10  # "structured" rows differ by up to 2**20 in scale; estimated
_ROW_EXPONENT_HALF = 4
_SPECIAL = (math.inf, -math.inf, math.nan)


def generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of ``device`` whose state is a pure function of ``parts``. What it draws depends on the
    device's type."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def constrained(spec: InputSpec) -> bool:
    """Whether the values of a tensor input are bound by its distribution in every variant."""
    d = spec.distribution
    if spec.shape is None or not getattr(torch, spec.dtype).is_floating_point:
        return True
    return d.kind != "normal" and not (d.kind == "uniform" and d.low is None and d.high is None)


def takes_special(spec: InputSpec) -> bool:
    """Whether infinities and NaN may be put into this input."""
    return spec.special and not constrained(spec)


def draw_tensor(
    spec: InputSpec, variant: str, rng: torch.Generator, drawn: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """A contiguous CPU tensor for ``spec``; ``drawn`` holds the inputs drawn before it (for ``choice``)."""
    assert spec.shape is not None
    dtype: torch.dtype = getattr(torch, spec.dtype)
    kind, low, high = spec.distribution.kind, spec.distribution.low, spec.distribution.high
    if kind == "normal":
        x = _empty(spec.shape, dtype).normal_(low or 0.0, 1.0 if high is None else high, generator=rng)
        return transform(x, variant, rng, takes_special(spec), dtype).to(dtype)
    if kind == "uniform":
        if low is None and high is None:
            x = _empty(spec.shape, dtype).uniform_(generator=rng)
            return transform(x, variant, rng, takes_special(spec), dtype).to(dtype)
        return _bounded(spec, variant, dtype, rng)
    if kind == "constant":
        return torch.full(spec.shape, low or 0, dtype=dtype)
    if kind == "bernoulli":
        p = 0.5 if high is None else high
        return torch.empty(spec.shape).uniform_(generator=rng).lt_(p).to(dtype)
    if kind == "integers":
        return _integers(spec.shape, low or 0, high, variant, rng).to(dtype)
    if kind in {"sorted", "unique_sorted"}:
        return _sorted(spec, kind == "unique_sorted", dtype, rng)
    if kind == "offsets":
        return _offsets(spec.shape, high, variant, rng).to(dtype)
    if kind == "permutation":
        return torch.rand(spec.shape, generator=rng, dtype=torch.float64).argsort(-1).to(dtype)
    return _choice(spec, variant, dtype, rng, drawn)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Storage to draw floats in: float64 for float64, so that no input is representable in float32 by
    construction, float32 for the rest."""
    return torch.empty(shape, dtype=torch.float64 if dtype is torch.float64 else torch.float32)


def transform(
    x: torch.Tensor, variant: str, rng: torch.Generator, special: bool, dtype: torch.dtype
) -> torch.Tensor:
    """``x`` (unconstrained floats that will be given as ``dtype``) as ``variant`` wants it, in place where
    that is possible. Zeros stay zero and signs stay under ``large`` and ``sparse``. ``rng`` is of the device
    of ``x``."""
    half = dtype is torch.float16
    if variant == "large":
        return x.mul_(_LARGE_HALF if half else _LARGE)
    if variant == "sparse":
        draws = torch.empty(x.shape, device=x.device).uniform_(generator=rng)
        return x.mul_(draws.lt_(_KEEP).to(x.dtype))
    if variant == "structured" and x.numel():
        rows = x.reshape(-1, x.shape[-1]) if x.dim() > 1 else x.reshape(-1, 1)
        bound = _ROW_EXPONENT_HALF if half else _ROW_EXPONENT
        exponents = torch.randint(-bound, bound + 1, (rows.shape[0], 1), generator=rng, device=x.device)
        rows.mul_(torch.exp2(exponents.to(x.dtype)))
        rows[1::4] += 8.0  # an offset mean: cancellation in variances
        rows[2::4] = rows[2::4].round()  # ties
        return rows.reshape(x.shape)
    if variant == "special" and special and x.numel():
        flat = x.reshape(-1)
        values = torch.tensor(_SPECIAL[: min(len(_SPECIAL), flat.numel())], dtype=x.dtype, device=x.device)
        flat[torch.randint(flat.numel(), values.shape, generator=rng, device=x.device)] = values
        return flat.reshape(x.shape)
    return x


def _bounded(spec: InputSpec, variant: str, dtype: torch.dtype, rng: torch.Generator) -> torch.Tensor:
    """Floats in ``[low, high)``, whatever the variant."""
    assert spec.shape is not None
    low = float(spec.distribution.low or 0.0)
    high = 1.0 if spec.distribution.high is None else float(spec.distribution.high)
    u = _empty(spec.shape, dtype).uniform_(generator=rng)
    if variant == "large":  # the ends of the range
        u = torch.where(u < 0.5, u / 64, 1 - (1 - u) / 64)
    elif variant == "sparse":
        rest = (0.0 - low) / (high - low) if low <= 0 < high else 0.0
        u.masked_fill_(torch.empty(u.shape).uniform_(generator=rng) >= _KEEP, rest)
    elif variant == "structured" and u.numel():
        rows = u.reshape(-1, u.shape[-1]) if u.dim() > 1 else u.reshape(-1, 1)
        rows.mul_(
            torch.exp2(-torch.randint(_ROW_EXPONENT + 1, (rows.shape[0], 1), generator=rng).to(u.dtype))
        )
        rows[2::4] = (rows[2::4] * 8).floor_() / 8
        u = rows.reshape(u.shape)
    return _within(u.mul_(high - low).add_(low).to(dtype), low, high)


def _integers(
    shape: tuple[int, ...], low: int, high: int, variant: str, rng: torch.Generator
) -> torch.Tensor:
    x = torch.randint(low, high, shape, generator=rng)
    if variant == "large":
        near = max(low, high - 1 - (high - low) // 64)
        return torch.randint(near, high, shape, generator=rng)
    if variant == "sparse":
        return x.masked_fill_(torch.empty(shape).uniform_(generator=rng) >= _KEEP, low)
    if variant == "structured":  # few distinct values: collisions and ties
        few = torch.randint(low, high, (4,), generator=rng)
        return few[torch.randint(4, shape, generator=rng)]
    return x


def _sorted(spec: InputSpec, unique: bool, dtype: torch.dtype, rng: torch.Generator) -> torch.Tensor:
    assert spec.shape is not None
    d, shape = spec.distribution, spec.shape
    n = shape[-1]
    if not dtype.is_floating_point:
        low = int(d.low or 0)
        # A multiset of n draws below high - n + 1, plus its ranks, is a set of n distinct draws.
        top = int(d.high) - (n - 1 if unique else 0)
        values = torch.randint(low, max(top, low + 1), shape, generator=rng).numpy()
        values.sort(axis=-1)
        x = torch.from_numpy(values)
        return (x.add_(torch.arange(n)) if unique else x).to(dtype)
    bottom, high = float(d.low or 0.0), 1.0 if d.high is None else float(d.high)
    u = torch.empty(shape, dtype=torch.float64).uniform_(generator=rng)
    u.numpy().sort(axis=-1)
    x = _within(u.mul(high - bottom).add_(bottom).to(dtype), bottom, high)
    if unique and n > 1 and not bool((x.diff(dim=-1) > 0).all()):
        strata = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        x = strata.mul_(high - bottom).add_(bottom).to(dtype).expand(shape).contiguous()
        if not bool((x.diff(dim=-1) > 0).all()):
            raise SpecError(
                f"{n} different values of {spec.dtype} do not fit into [{bottom}, {high})",
                where=f"input '{spec.name}'",
                mend="widen the range, or use kind: sorted",
            )
    return x


def _within(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """``x`` clamped to ``[low, high)``; where its type has no value there, the nearest to ``low``."""
    top = _below(high, x.dtype)
    return x.clamp_(low, top) if top >= low else x.fill_(low)


def _below(high: float, dtype: torch.dtype) -> float:
    """The largest value of ``dtype`` under ``high``: rounding may otherwise reach the excluded end."""
    top = torch.tensor(high, dtype=dtype)
    if top.item() >= high:
        if high == 0:
            return -float(torch.finfo(dtype).tiny)
        # Of floats of one sign, the neighbours are those whose bits, as an integer, are one apart.
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[top.element_size()]
        top = (top.view(whole) + (-1 if high > 0 else 1)).view(dtype)
    return float(top)


def _offsets(shape: tuple[int, ...], high: int, variant: str, rng: torch.Generator) -> torch.Tensor:
    """Monotone from 0 to ``high``: bounds of segments. ``sparse`` leaves most of them empty, ``structured``
    puts most elements into few."""
    if variant in {"sparse", "structured"}:
        few = torch.randint(0, high + 1, (3 if variant == "sparse" else 2,), generator=rng)
        x = few[torch.randint(len(few), shape, generator=rng)]
    else:
        x = torch.randint(0, high + 1, shape, generator=rng)
    x.numpy().sort(axis=-1)
    x[..., -1] = high
    x[..., 0] = 0
    return x


def _choice(
    spec: InputSpec,
    variant: str,
    dtype: torch.dtype,
    rng: torch.Generator,
    drawn: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Values of another input with probability ``high``, else misses."""
    assert spec.shape is not None
    d = spec.distribution
    source = drawn[d.source or ""].reshape(-1)
    hits = source[torch.randint(max(source.numel(), 1), spec.shape, generator=rng)].to(dtype)
    if variant == "structured":
        hits = hits.reshape(-1)[torch.randint(min(4, hits.numel()), spec.shape, generator=rng)]
    p = 1.0 if d.high is None else float(d.high)
    if p >= 1.0:
        return hits
    if variant == "sparse":
        p *= _KEEP
    misses = _misses(spec, source, dtype, rng)
    return torch.where(torch.empty(spec.shape).uniform_(generator=rng) < p, hits, misses)


def _misses(spec: InputSpec, source: torch.Tensor, dtype: torch.dtype, rng: torch.Generator) -> torch.Tensor:
    """From ``[low, …)``; without ``low``, from the range of the source, where a draw is only likely to
    miss."""
    assert spec.shape is not None
    low = spec.distribution.low
    if dtype.is_floating_point:
        u = torch.empty(spec.shape, dtype=torch.float64).uniform_(generator=rng)
        bottom, top = (float(low), float(low) + 1.0) if low is not None else _range(source)
        return u.mul_(top - bottom).add_(bottom).to(dtype)
    if low is not None:
        bottom, top = int(low), min(int(low) + 2**31, torch.iinfo(dtype).max)
    else:
        bottom, top = (int(v) for v in _range(source))
    return torch.randint(bottom, max(top, bottom + 1), spec.shape, generator=rng).to(dtype)


def _range(source: torch.Tensor) -> tuple[Any, Any]:
    return source.min().item(), source.max().item()


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The values of ``x`` in another memory layout."""
    if layout == "transposed" and x.dim() >= 2:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "strided" and x.dim() >= 1:
        wide = x.new_zeros((*x.shape[:-1], 2 * x.shape[-1]))
        view = wide[..., ::2]
        return view.copy_(x)
    if layout == "offset":
        # One element in: as misaligned as a view of this dtype can be.
        storage = x.new_zeros(x.numel() + 1)
        return storage[1:].view(x.shape).copy_(x)
    return x
