"""Specifications made from a live function or module and example inputs."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kevolve_core.errors import SpecError, suggest
from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Precision, Reference
from kevolve_core.spec.checks import schema
from kevolve_core.spec.dump import dump_spec
from kevolve_core.spec.extract import extract, importable_name

__all__ = ["init_spec", "spec_from_function"]


def spec_from_function(
    fn_or_module: Callable[..., Any] | torch.nn.Module | type[torch.nn.Module],
    example_inputs: Sequence[Any],
    *,
    name: str | None = None,
    init: Mapping[str, Any] | None = None,
    mode: str = "eval",
    precision: Precision | None = None,
    options: Mapping[str, Any] | None = None,
) -> KernelSpec:
    """A specification with one tune case of the shapes and dtypes of ``example_inputs``.

    Floats are drawn from a normal distribution, or uniformly from the observed range where every example is
    non-negative or they ascend; integers from the observed range, keeping sortedness, permutations and
    offsets into another input. Look these over where the kernel relies on more.

    Args:
        fn_or_module: a function, an ``nn.Module`` class (with ``init``), or an instance whose constructor
            arguments can be read back from its attributes.
        example_inputs: positional arguments: tensors and Python scalars.
        name: of the spec; by default the function's.
        init: keyword arguments of the module's constructor.
        mode: ``eval`` or ``train``.
        precision: the tolerance policy; by default parity.
        options: evaluator options.

    Raises:
        SpecError: the source cannot be taken, or an input is neither a tensor nor a scalar.
    """
    if isinstance(example_inputs, torch.Tensor) or not isinstance(example_inputs, Sequence):
        raise SpecError(
            "example inputs are a tuple of the positional arguments",
            got=type(example_inputs).__name__,
            mend="write (x,) for a single one",
        )
    if mode not in {"eval", "train"}:
        raise SpecError("unknown mode", got=mode, mend="eval or train")
    is_module = isinstance(fn_or_module, torch.nn.Module) or (
        inspect.isclass(fn_or_module) and issubclass(fn_or_module, torch.nn.Module)
    )
    if not is_module and not callable(fn_or_module):
        raise SpecError("not a function or module", got=type(fn_or_module).__name__)
    definition: Any = type(fn_or_module) if isinstance(fn_or_module, torch.nn.Module) else fn_or_module
    if init and not is_module:
        raise SpecError("only a module has constructor arguments", got=", ".join(init))
    arguments = dict(init or {})
    if isinstance(fn_or_module, torch.nn.Module) and init is None:
        arguments = _constructor_arguments(fn_or_module)
    source, symbol = extract(definition)
    names = _argument_names(definition.forward if is_module else definition, len(example_inputs), is_module)
    inputs = tuple(_input(n, value, example_inputs) for n, value in zip(names, example_inputs, strict=True))
    found = importable_name(definition)
    reference = Reference(
        source,
        symbol,
        "module" if is_module else "function",
        search_path=_search_path(found[0]) if found else (),
        init=arguments,
    )
    return KernelSpec(
        name=_spec_name(name or symbol),
        reference=reference,
        cases=(Case("example", inputs),),
        precision=precision or Precision(),
        mode=mode,
        options=options or {},
    )


def init_spec(target: str, example_inputs: Sequence[Any] | None = None) -> str:
    """YAML of a specification for ``module:function``.

    Args:
        target: importable from the working directory or the environment.
        example_inputs: positional arguments; by default what ``example_inputs()`` in that module returns.

    Raises:
        SpecError: there is no such module or function, or no example inputs.
    """
    module_name, _, symbol = target.partition(":")
    if not module_name or not symbol:
        raise SpecError(
            "the target is module:function", got=target, mend="for example my_package.ops:rmsnorm"
        )
    module_name = module_name.removesuffix(".py").replace("/", ".")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise SpecError(
            "the module does not import",
            got=f"{type(error).__name__}: {error}",
            where=module_name,
            mend="run it from the folder the module lies in, with its dependencies installed",
        ) from error
    value: Any = module
    for part in symbol.split("."):
        if not hasattr(value, part):
            raise SpecError(
                "the module does not define this",
                got=symbol,
                where=module_name,
                mend=suggest(part, dir(value)) or None,
            )
        value = getattr(value, part)
    if example_inputs is None:
        make = getattr(module, "example_inputs", None) or getattr(module, "get_inputs", None)
        if make is None:
            raise SpecError(
                "there are no example inputs",
                where=module_name,
                mend=f"define example_inputs() in {module_name}, returning the arguments of {symbol}",
            )
        example_inputs = tuple(make())
    return dump_spec(spec_from_function(value, example_inputs))


def _spec_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip("_") or "kernel"


def _search_path(module: str) -> tuple[str, ...]:
    """The folder on the import path that a user's module was found in."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or "site-packages" in file:
        return ()
    depth = module.count(".") + (Path(file).name == "__init__.py")
    return (str(Path(file).resolve().parents[depth]),)


def _argument_names(function: Any, count: int, is_method: bool) -> list[str]:
    """Names of the first ``count`` positional arguments."""
    generic = [f"x{i}" for i in range(count)]
    try:
        parameters = list(inspect.signature(function).parameters.values())[int(is_method) :]
    except (TypeError, ValueError):  # built-in functions have no signature
        return generic
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = [p.name for p in positional if p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ([p.name for p in positional] + generic)[:count]
    if not len(required) <= count <= len(positional):
        raise SpecError(
            "the example inputs do not fit the arguments",
            got=f"{count} for ({', '.join(p.name for p in positional)})",
            where=getattr(function, "__qualname__", str(function)),
        )
    return [p.name for p in positional][:count]


def _input(name: str, value: Any, all_inputs: Sequence[Any]) -> InputSpec:
    if isinstance(value, (bool, int, float, str)) or value is None:
        dtype = {bool: "bool", int: "int64", float: "float64"}.get(type(value), "float32")
        return InputSpec(name, None, dtype, value=value)
    if not isinstance(value, torch.Tensor):
        raise SpecError(
            "an example input is a tensor or a Python scalar",
            got=type(value).__name__,
            where=f"argument '{name}'",
        )
    dtype = str(value.dtype).removeprefix("torch.")
    known: list[str] = schema()["$defs"]["input"]["properties"]["dtype"]["enum"]
    if dtype not in known:
        raise SpecError("unsupported dtype", got=dtype, where=f"argument '{name}'", mend=", ".join(known))
    x = value.detach()
    transposed = x.dim() >= 2 and not x.is_contiguous() and x.transpose(-1, -2).is_contiguous()
    return InputSpec(
        name,
        tuple(x.shape),
        dtype,
        _observed(x, all_inputs),
        ("transposed",) if transposed else ("contiguous",),
    )


def _observed(x: torch.Tensor, all_inputs: Sequence[Any]) -> Distribution:
    """The narrowest distribution that ``x`` looks drawn from."""
    if x.dtype is torch.bool:
        return Distribution("bernoulli")
    if not x.numel():
        return Distribution() if x.is_floating_point() else Distribution("integers", 0, 1)
    low, high = x.min().item(), x.max().item()
    long = x.dim() > 0 and x.shape[-1] >= 3  # two numbers ascend by chance
    ascending = long and low < high and bool((x.diff(dim=-1) >= 0).all())
    strictly = ascending and bool((x.diff(dim=-1) > 0).all())
    if x.is_floating_point():
        finite = x.isfinite().all()
        if not finite or low == high or not (ascending or low >= 0):
            return Distribution()
        kind = ("unique_sorted" if strictly else "sorted") if ascending else "uniform"
        # [low, high) with the observed maximum inside.
        return Distribution(kind, low, high + (high - low) / 2**10)
    low, high = int(low), int(high)
    rows = {v.shape[0] for v in all_inputs if isinstance(v, torch.Tensor) and v.dim() and v is not x}
    if ascending:
        if low == 0 and high in rows and bool((x[..., 0] == 0).all()) and bool((x[..., -1] == high).all()):
            return Distribution("offsets", None, high)
        return Distribution("unique_sorted" if strictly else "sorted", low, high + 1)
    if long and torch.equal(x.sort(dim=-1).values, torch.arange(x.shape[-1], dtype=x.dtype).expand(x.shape)):
        return Distribution("permutation")
    return Distribution("integers", low, high + 1)


def _constructor_arguments(module: torch.nn.Module) -> dict[str, Any]:
    """Keyword arguments that construct a module like ``module``, read back from its attributes."""
    signature = inspect.signature(type(module).__init__)
    arguments: dict[str, Any] = {}
    missing: list[str] = []
    for p in list(signature.parameters.values())[1:]:
        if p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD}:
            continue
        value = getattr(module, p.name, p.empty)
        if isinstance(p.default, bool) and (value is None or isinstance(value, torch.Tensor)):
            value = value is not None  # nn.Linear keeps its bias where the argument said whether
        if isinstance(value, (bool, int, float, str)):
            arguments[p.name] = value
        elif isinstance(value, (tuple, list)) and all(isinstance(v, (int, float)) for v in value):
            arguments[p.name] = list(value)
        elif p.default is p.empty:
            missing.append(p.name)
    cause = f"no attribute holds {', '.join(missing)}" if missing else ""
    if not cause:
        try:
            again = type(module)(**arguments)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
        else:
            shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
            if shapes != {k: tuple(v.shape) for k, v in again.state_dict().items()}:
                cause = f"{arguments} construct a module with other weights"
    if cause:
        raise SpecError(
            "the constructor's arguments of this module are not known",
            got=cause,
            where=type(module).__name__,
            mend=f"pass the class and its arguments: {type(module).__name__}, …, init={{…}}",
        )
    return arguments
