"""Random factories inside a reference, turned into inputs.

`Tape` sees every operator a reference runs. One that draws random numbers asks the tape's source for values
instead: recording, the source notes what was asked and draws it; replaying, it hands out given tensors in
order. What cannot be restated as a plain draw is a `SpecError` that names the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import Distribution, InputSpec
from kevolve_core.spec.draw import draw_tensor

__all__ = ["Drawing", "Scoped", "Shaped", "Tape", "recording", "replaying"]

Source = Callable[[Distribution, tuple[int, ...], str], torch.Tensor]
Bound = Mapping[str, Any]
_UNIT = Distribution("uniform")
_NORMAL = Distribution("normal")


class Tape(TorchDispatchMode):  # type: ignore[misc]
    """While active, random operators take their values from ``source(distribution, shape, dtype)``.
    ``operators`` counts all that were seen."""

    supports_higher_order_operators = True  # torch.cond and its kin, whose branches run unseen

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.operators += 1
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if torch.Tag.nondeterministic_seeded not in func.tags and name not in {"random_", "random"}:
            return func(*args, **kwargs)
        bound = _bind(func, args, kwargs)
        if _is_inert(bound):
            return func(*args, **kwargs)
        rule = _RULES.get(name)
        if rule is None:
            raise SpecError(
                f"the reference draws random numbers with {func}, which cannot be made an input",
                mend="pass the drawn values as an input, or build them from torch.rand, randn, randint, "
                "randperm or bernoulli",
            )
        return rule(bound, self._source)


def recording(rng: torch.Generator, found: list[InputSpec]) -> Tape:
    """A tape that draws what the reference asks for and appends its description to ``found``."""

    def source(distribution: Distribution, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        spec = InputSpec(f"random{len(found)}", shape, dtype, distribution, special=False)
        found.append(spec)
        return draw_tensor(spec, "base", rng, {})

    return Tape(source)


def replaying(values: Sequence[torch.Tensor]) -> Tape:
    """A tape that hands out ``values`` in order."""
    rest = iter(values)

    def source(distribution: Distribution, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        value = next(rest, None)
        if value is None or tuple(value.shape) != shape:
            raise SpecError(
                "the reference draws other random numbers than in its trial run",
                got=f"{distribution.kind} of shape {shape} in {dtype}",
                mend="let the number and shapes of random draws not depend on the values of inputs",
            )
        return _beneath(value)

    return Tape(source)


def _beneath(value: torch.Tensor) -> torch.Tensor:
    """``value`` as operators below functionalisation have it, where a tape is: what it gives is wrapped on
    the way up, and PyTorch 2.11 refuses what is wrapped already."""
    if not torch._is_functional_tensor(value):
        return value
    torch._sync(value)
    return torch._from_functional_tensor(value)


class Drawing(TorchFunctionMode):  # type: ignore[misc]
    """Finds the torch functions that draw random numbers: those that move the global generator, or are given
    one of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[Any] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        before = torch.random.get_rng_state()
        out = func(*args, **kwargs)
        if kwargs.get("generator") is not None or not torch.equal(before, torch.random.get_rng_state()):
            self.functions.add(func)
        return out


_RECURRENT = frozenset([torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu])
_OF_A_STEP = 8  # operators that a layer's step falls apart into, about; estimated


class Shaped(TorchFunctionMode):  # type: ignore[misc]
    """Recurrent layers that draw nothing give tensors of their results' shapes: without data there is nothing
    to compute, and taking every step apart for ``tape`` to see takes a minute for 12 thousand."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in _RECURRENT or len(args) != 9 or kwargs or not isinstance(args[2], (list, tuple)):
            return func(*args, **(kwargs or {}))
        x, state, _, _, layers, dropout, training, both, batch_first = args
        if dropout and training:
            return func(*args)
        hidden = state[0] if isinstance(state, (list, tuple)) else state
        directions = 2 if both else 1
        self._tape.operators += x.shape[1 if batch_first else 0] * layers * directions * _OF_A_STEP
        out = x.new_empty((*x.shape[:-1], directions * hidden.shape[-1]))
        return (out, *(torch.empty_like(s) for s in (state if hidden is not state else (state,))))


class Scoped(TorchFunctionMode):  # type: ignore[misc]
    """Puts ``tape`` around the torch functions that draw, and nothing else: layers that fall apart into many
    operators while a tape watches run whole."""

    def __init__(self, tape: Tape, functions: set[Any]) -> None:
        super().__init__()
        self._tape = tape
        self._functions = functions

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in self._functions:
            return func(*args, **(kwargs or {}))
        with self._tape:
            return func(*args, **(kwargs or {}))


def _bind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults filled in."""
    # A dtype's default appears as ATen's enumerator (``dtype=long`` as 4); each rule knows its own.
    bound = {a.name: None if a.name == "dtype" else a.default_value for a in func._schema.arguments}
    bound.update(zip(bound, args, strict=False))
    bound.update(kwargs)
    return bound


def _is_inert(bound: Bound) -> bool:
    """Called so that nothing random happens (attention without dropout, a layer in eval mode)."""
    return (
        bound.get("dropout_p") == 0.0
        or bound.get("train") is False
        or bound.get("training") is False
        or ("dropout" in bound and bound["dropout"] == 0.0)
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _real(dtype: torch.dtype | None) -> torch.dtype:
    """The dtype a floating draw has, where ``None`` means torch's default."""
    return dtype or torch.get_default_dtype()


def _made(bound: Bound, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A factory's result."""
    if isinstance(like := bound.get("self"), torch.Tensor):
        return torch.empty_like(like, dtype=dtype).copy_(value)
    return value.to(device=bound.get("device"), dtype=dtype)


def _shape(bound: Bound) -> tuple[int, ...]:
    like = bound.get("self")
    return tuple(like.shape) if isinstance(like, torch.Tensor) else tuple(bound["size"])


def _factory(distribution: Distribution) -> Callable[[Bound, Source], torch.Tensor]:
    """rand, randn and their ``_like`` forms."""

    def rule(bound: Bound, source: Source) -> torch.Tensor:
        like = bound.get("self")
        dtype = bound["dtype"] or (like.dtype if isinstance(like, torch.Tensor) else _real(None))
        return _made(bound, source(distribution, _shape(bound), _dtype_name(dtype)), dtype)

    return rule


def _randint(bound: Bound, source: Source) -> torch.Tensor:
    like = bound.get("self")
    dtype = bound["dtype"] or (like.dtype if isinstance(like, torch.Tensor) else torch.int64)
    distribution = Distribution("integers", bound.get("low") or 0, bound["high"])
    return _made(bound, source(distribution, _shape(bound), "int64"), dtype)


def _randperm(bound: Bound, source: Source) -> torch.Tensor:
    dtype = bound["dtype"] or torch.int64
    value = source(Distribution("permutation"), (bound["n"],), "int64")
    return value.to(device=bound["device"], dtype=dtype)


def _filled(distribution: Callable[[Bound], Distribution], in_place: bool) -> Any:
    """``x.uniform_()``, ``x.normal_()`` and their functional twins."""

    def rule(bound: Bound, source: Source) -> torch.Tensor:
        x = bound["self"]
        value = source(distribution(bound), tuple(x.shape), _dtype_name(x.dtype))
        return x.copy_(value) if in_place else torch.empty_like(x).copy_(value)

    return rule


def _uniform(bound: Bound) -> Distribution:
    low, high = bound["from"], bound["to"]
    return _UNIT if (low, high) == (0.0, 1.0) else Distribution("uniform", low, high)


def _normal_of(bound: Bound) -> Distribution:
    mean, std = bound["mean"], bound["std"]
    return _NORMAL if (mean, std) == (0.0, 1.0) else Distribution("normal", mean, std)


def _normal(bound: Bound, source: Source) -> torch.Tensor:
    """``torch.normal`` with numbers or tensors for mean and standard deviation."""
    mean, std = bound["mean"], bound["std"]
    tensors = [t for t in (mean, std) if isinstance(t, torch.Tensor)]
    if not tensors:
        dtype = _real(bound.get("dtype"))
        return source(_normal_of(bound), tuple(bound["size"]), _dtype_name(dtype)).to(dtype)
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    return source(_NORMAL, tuple(shape), _dtype_name(tensors[0].dtype)) * std + mean


def _bernoulli(in_place: bool) -> Callable[[Bound, Source], torch.Tensor]:
    def rule(bound: Bound, source: Source) -> torch.Tensor:
        x, p = bound["self"], bound.get("p")
        if isinstance(p, float):
            value = source(Distribution("bernoulli", None, p), tuple(x.shape), "bool")
        else:
            chance = x if p is None else p
            value = source(_UNIT, tuple(x.shape), _dtype_name(chance.dtype)) < chance
        return x.copy_(value) if in_place else torch.empty_like(x).copy_(value)

    return rule


def _native_dropout(bound: Bound, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    x, p = bound["input"], bound["p"]
    mask = source(Distribution("bernoulli", None, 1.0 - p), tuple(x.shape), "bool")
    return x * mask * (0.0 if p == 1.0 else 1.0 / (1.0 - p)), mask


def _random_(bound: Bound, source: Source) -> torch.Tensor:
    """``x.random_()``: integers, by default those the dtype holds exactly."""
    x = bound["self"]
    top = (
        2 ** round(1 - math.log2(torch.finfo(x.dtype).eps))
        if x.dtype.is_floating_point
        else 2
        if x.dtype is torch.bool
        else torch.iinfo(x.dtype).max
    )
    low, high = bound.get("from") or 0, bound.get("to")
    distribution = Distribution("integers", low, top if high is None else high)
    return x.copy_(source(distribution, tuple(x.shape), "int64"))


def _exponential_(bound: Bound, source: Source) -> torch.Tensor:
    """Inverse of the cumulative distribution: -ln(1 - u) / lambda; never zero, as torch's own is not."""
    x = bound["self"]
    u = source(_UNIT, tuple(x.shape), _dtype_name(x.dtype))
    smallest = torch.finfo(torch.float32).eps / 2
    return x.copy_((-torch.log1p(-u)).clamp_min(smallest) / bound["lambd"])


_RULES: dict[str, Callable[[Bound, Source], Any]] = {
    "rand": _factory(_UNIT),
    "rand_like": _factory(_UNIT),
    "randn": _factory(_NORMAL),
    "randn_like": _factory(_NORMAL),
    "randint": _randint,
    "randint_like": _randint,
    "randperm": _randperm,
    "uniform": _filled(_uniform, in_place=False),
    "uniform_": _filled(_uniform, in_place=True),
    "normal_": _filled(_normal_of, in_place=True),
    "normal_functional": _filled(_normal_of, in_place=False),
    "normal": _normal,
    "bernoulli": _bernoulli(in_place=False),
    "bernoulli_": _bernoulli(in_place=True),
    "native_dropout": _native_dropout,
    "random_": _random_,
    "exponential_": _exponential_,
}
