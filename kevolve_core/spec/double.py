"""Running a reference in float64, whatever dtypes it names inside.

The oracle wants the reference's real-valued meaning, so literals such as ``torch.float32`` in factories and
casts are read as float64 while `Promote` is active. An operator that refuses float64 runs in the dtype it was
declared in and its result is promoted; its name is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map

from kevolve_core.errors import SpecError

__all__ = ["Promote", "double_module", "in_double"]

_LOW = (torch.float32, torch.float16, torch.bfloat16)


def _promote(value: Any) -> Any:
    """A lower-precision tensor as float64; everything else as it is."""
    return value.double() if _is_low(value) else value


def _is_double(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.float64


def _is_low(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _LOW


def _is_low_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in _LOW


class Promote(TorchDispatchMode):  # type: ignore[misc]
    """While active, floating arithmetic is float64. ``refused`` collects operators that would not;
    ``needed`` tells whether anything had to be changed."""

    def __init__(self, refused: list[str], lower: torch.dtype) -> None:
        super().__init__()
        self._refused = refused
        self._lower = lower
        self.needed = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        mutable = func._schema.is_mutable
        if func is torch.ops.aten.view.dtype:
            raise TypeError(f"{func} reinterprets bits, which differ in float64")
        if tree_any(_is_low_dtype, (args, kwargs), is_leaf=_leaf):
            self.needed = True
            args, kwargs = tree_map(
                lambda v: torch.float64 if _is_low_dtype(v) else v, (args, kwargs), is_leaf=_leaf
            )
        if not mutable and tree_any(_is_double, (args, kwargs)) and tree_any(_is_low, (args, kwargs)):
            self.needed = True
            args, kwargs = tree_map(_promote, (args, kwargs))
        try:
            out = func(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as refusal:
            if mutable or "Double" not in str(refusal):
                raise
            self.needed = True
            low = tree_map(lambda v: v.to(self._lower) if _is_double(v) else v, (args, kwargs))
            out = func(*low[0], **low[1])
            if str(func) not in self._refused:
                self._refused.append(str(func))
            return tree_map(_promote, out)
        # torch.tensor(...) has no dtype argument left to rewrite here.
        if func is torch.ops.aten.lift_fresh.default and _is_low(out):
            self.needed = True
            return _promote(out)
        return out


def _leaf(value: Any) -> bool:
    return isinstance(value, (torch.dtype, torch.Tensor))


@contextmanager
def _default_double() -> Iterator[None]:
    """Factories without a dtype make float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def double_module(module: torch.nn.Module) -> None:
    """``module.double()``, plain tensor attributes included."""
    module.double()
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor):
                setattr(part, name, _promote(value))


def in_double(
    run: Callable[..., Any], declared: Callable[..., Any], refused: list[str], lower: torch.dtype
) -> Callable[..., Any]:
    """``run`` with float64 arithmetic; where that fails as a whole, ``declared`` in its own dtypes.

    ``refused`` is filled while running: operators that ran in ``lower``, or the reason why everything did.
    """

    plain = False

    def call(*inputs: Any) -> Any:
        nonlocal plain
        if plain:
            with _default_double():
                return run(*tree_map(_promote, inputs))
        if not (refused and refused[-1].startswith("whole reference")):
            try:
                promote = Promote(refused, lower)
                with _default_double(), promote:
                    out = run(*tree_map(_promote, inputs))
                # Dtypes do not depend on values, so the next call need not be watched; a recurrent layer,
                # which falls apart into its steps while watched, then runs whole.
                plain = not promote.needed
                return out
            except SpecError:
                raise
            except Exception as error:
                refused.append(f"whole reference ({type(error).__name__}: {str(error).splitlines()[0]})")
        return declared(*inputs)

    return call
