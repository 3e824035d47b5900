"""A PyTorch reference and example inputs become a `Graph` of ATen operators.

Tracing runs on fake tensors: no data is touched and shapes are static. Mutation is functionalised, composite
operators are decomposed, and operators that lowering does not know are decomposed where PyTorch can.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from kevolve_core.errors import CaptureError
from kevolve_core.synth import attention, decompositions
from kevolve_core.synth.graph import Dtype, Graph, Node, Ref, TensorType
from kevolve_core.synth.recurrent import OPERATORS, layer
from kevolve_core.synth.refusals import depends, refusal, user_line
from kevolve_core.synth.unchecked import UNCHECKED, unvalidated

__all__ = ["capture", "dtype_name"]

_CONSTANT_LIMIT = 1 << 16  # elements of a literal tensor that a program carries inline; estimated
_DTYPES = frozenset(
    ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
#: What only library operators compute with, between others.
_COMPLEX = frozenset(["complex64", "complex128"])
#: Methods that give away memory, which a traced tensor does not have: what is read there is no value.
_MEMORY = frozenset(getattr(torch.Tensor, n) for n in ("numpy", "__array__", "__dlpack__"))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def capture(
    call: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    module: torch.nn.Module | None = None,
    keep: Collection[str] = (),
    where: str = "reference",
) -> Graph:
    """The graph of ``call(*inputs)``.

    Args:
        call: the reference: a function or module, in the mode it is to be captured in.
        inputs: tensors (real, fake or meta: only their type counts) and Python scalars, which are baked in.
        module: whose state_dict names the parameters; by default ``call`` itself where it is a module.
        keep: operators (``aten.gelu.default``) not to be decomposed.
        where: for messages.

    Raises:
        CaptureError: names the operator and the user's source line.
    """
    tracer = _Lines()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    example = [_fake_input(fake, value, where) for value in inputs]
    tensors = [v for v in example if isinstance(v, torch.Tensor)]
    own = _own_tensors(call)
    state = {**_state(call), **own}
    fakes = {name: fake.from_tensor(value.detach()) for name, value in state.items()}
    structure: list[Any] = []

    def flat(parameters: Mapping[str, torch.Tensor], *given: torch.Tensor) -> list[Any]:
        rest = iter(given)
        args = [next(rest) if isinstance(v, torch.Tensor) else v for v in example]
        held = {name: parameters[name] for name in own}
        with tracer, _holding(call, held):
            if isinstance(call, torch.nn.Module):
                weights = {name: value for name, value in parameters.items() if name not in own}
                result = torch.func.functional_call(call, weights, tuple(args))
            else:
                result = call(*args)
        leaves, spec = pytree.tree_flatten(result)
        structure[:] = [_structured(spec, leaves)]
        return [v for v in leaves if isinstance(v, torch.Tensor)]

    table = _decompositions(frozenset(keep))
    try:
        with torch.no_grad(), fake, fx_traceback.preserve_node_meta(), unvalidated():
            traced = make_fx(torch.func.functionalize(flat), decomposition_table=table)(fakes, *tensors)
            if _mutates(traced):  # composite operators mutate inside, below the first functionalisation
                again = torch.func.functionalize(torch.fx.Interpreter(traced).run)
                flattened = [*fakes.values(), *tensors]
                traced = make_fx(again, decomposition_table=table)(*flattened)
    except CaptureError:
        raise
    except Exception as error:
        raise refusal(error, tracer.line, where) from error
    _drop_overwritten(traced)
    return _converted(traced, state, module if module is not None else call, inputs, structure[0], where)


def _own_tensors(call: Any) -> dict[str, torch.Tensor]:
    """Plain tensors that modules keep as attributes, by ``<module>:<attribute>``."""
    modules = dict(call.named_modules()) if isinstance(call, torch.nn.Module) else {}
    return {
        f"{path}:{name}": value
        for path, m in modules.items()
        for name, value in m.__dict__.items()
        if isinstance(value, torch.Tensor)
    }


@contextmanager
def _holding(call: Any, held: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """``held`` in place of `_own_tensors` while a module is traced, and afterwards what was there: a
    reference may write into them, or put results of its call there."""
    modules = dict(call.named_modules()) if isinstance(call, torch.nn.Module) else {}
    before = [(m, dict(m.__dict__)) for m in modules.values()]
    for key, value in held.items():
        path, _, name = key.rpartition(":")
        modules[path].__dict__[name] = value
    try:
        yield
    finally:
        for m, attributes in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)


def _drop_overwritten(traced: torch.fx.GraphModule) -> None:
    """A tensor that another of its type is copied over is that other one: what it held does not matter."""
    for n in traced.graph.nodes:
        if n.target is torch.ops.aten.copy_.default and n.args[0].op == "placeholder" and not n.users:
            traced.graph.erase_node(n)  # what is left in an argument is no result
        elif n.target is torch.ops.aten.copy.default:
            old, new = (a.meta["val"] for a in n.args[:2])
            if (old.shape, old.dtype, old.stride()) == (new.shape, new.dtype, new.stride()):
                n.replace_all_uses_with(n.args[1])
    traced.graph.eliminate_dead_code()


def _mutates(traced: torch.fx.GraphModule) -> bool:
    return any(
        n.op == "call_function"
        and isinstance(n.target, torch._ops.OpOverload)
        and n.target._schema.is_mutable
        for n in traced.graph.nodes
    )


def _fake_input(fake: FakeTensorMode, value: Any, where: str) -> Any:
    if not isinstance(value, torch.Tensor):
        if isinstance(value, (int, float, bool, str)) or value is None:
            return value
        raise CaptureError(
            "inputs of a reference are tensors and Python scalars", got=type(value).__name__, where=where
        )
    if dtype_name(value.dtype) not in _DTYPES:
        raise CaptureError("this dtype has no lowering", got=dtype_name(value.dtype), where=where)
    with fake:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")


def _state(call: Any) -> dict[str, torch.Tensor]:
    if not isinstance(call, torch.nn.Module):
        return {}
    return {**dict(call.named_parameters()), **dict(call.named_buffers())}


def _structured(spec: Any, leaves: Sequence[Any]) -> Any:
    """The result with tensor leaves numbered; other leaves are not reproduced by a kernel."""
    numbers = iter(range(len(leaves)))
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise CaptureError(
                "a reference must return tensors only",
                got=f"{type(leaf).__name__} in its result",
                mend="return tensors, or tuples, lists and dicts of them",
            )
    result = pytree.tree_unflatten([next(numbers) for _ in leaves], spec)
    return _plain(result)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return [_plain(v) for v in value] if isinstance(value, list) else value


@cache
def _decompositions(keep: frozenset[str]) -> dict[Any, Callable[..., Any]]:
    from torch._decomp import core_aten_decompositions, get_decompositions

    aten = torch.ops.aten
    more = get_decompositions(
        [aten.upsample_bicubic2d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
         aten._trilinear]
    )  # fmt: skip
    table = {
        **core_aten_decompositions(),
        **more,
        **attention.DECOMPOSITIONS,
        **decompositions.DECOMPOSITIONS,
    }
    return {op: f for op, f in table.items() if str(op) not in keep}


class _Lines(TorchFunctionMode):  # type: ignore[misc]
    """Notes the user's source line of every torch call, for the nodes traced during it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = ""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.line = user_line(sys._getframe(1)) or self.line
        fx_traceback.set_stack_trace([self.line])
        name = getattr(func, "__name__", "")
        if func in _MEMORY or (func is torch.Tensor.tolist and torch._is_functional_tensor(args[0])):
            raise depends(f"Tensor.{name}", self.line)
        if name in OPERATORS and len(args) == 9 and not kwargs:
            whole = layer(name, *args)
            if whole is not None:
                return whole
        func = UNCHECKED.get(func, func)
        return func(*args, **(kwargs or {}))


class _Converter:
    """fx nodes to `Node`s."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.names: dict[Any, str] = {}

    def type_of(self, node: Any) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return self._tensor(value, node)
        if isinstance(value, (list, tuple)):
            return tuple(self._tensor(v, node) if isinstance(v, torch.Tensor) else None for v in value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise CaptureError(
                "the reference turns the value of a tensor into a Python number",
                got=str(node.target),
                where=line_of(node) or self.where,
                mend="keep it a tensor: drop .item(), float(...) or int(...)",
            )
        return None

    def _tensor(self, value: torch.Tensor, node: Any) -> TensorType:
        if any(not isinstance(n, int) for n in (*value.shape, *value.stride())):
            raise CaptureError(
                "the shape of a result depends on the values of inputs",
                got=str(node.target),
                where=line_of(node) or self.where,
                mend="use a mask and torch.where in place of boolean indexing, nonzero or unique",
            )
        if dtype_name(value.dtype) not in _DTYPES | _COMPLEX:
            raise CaptureError(
                f"dtype {dtype_name(value.dtype)} has no lowering",
                got=str(node.target),
                where=line_of(node) or self.where,
            )
        return TensorType(tuple(value.shape), dtype_name(value.dtype), tuple(value.stride()))

    def argument(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return Ref(self.names[value])
        if isinstance(value, (list, tuple)):
            return tuple(self.argument(v) for v in value)
        if isinstance(value, torch.dtype):
            return Dtype(dtype_name(value))
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return str(value)
        return value


def line_of(node: Any) -> str:
    return str(node.meta.get("stack_trace") or "").strip()


def _converted(
    traced: torch.fx.GraphModule,
    state: Mapping[str, torch.Tensor],
    module: Any,
    inputs: Sequence[Any],
    structure: Any,
    where: str,
) -> Graph:
    known = module.state_dict(keep_vars=True) if isinstance(module, torch.nn.Module) else {}
    key_of = {id(t): k for k, t in reversed(list(known.items()))}
    convert = _Converter(where)
    nodes: list[Node] = []
    outputs: tuple[Ref, ...] = ()
    states = list(state.items())
    seen: set[str] = set()
    positions = [i for i, v in enumerate(inputs) if isinstance(v, torch.Tensor)]
    count = 0
    for n in traced.graph.nodes:
        if n.op == "output":
            for v in n.args[0]:
                if isinstance(v, torch.fx.Node) and v.meta["val"].dtype.is_complex:
                    raise CaptureError(
                        "the reference returns a complex tensor",
                        got=dtype_name(v.meta["val"].dtype),
                        where=line_of(v) or where,
                        mend="return torch.view_as_real of it",
                    )
            outputs = tuple(convert.argument(v) for v in n.args[0])
            continue
        name = n.name
        if n.op == "placeholder":
            if count < len(states):
                if ":" in states[count][0] and not n.users:  # a plain tensor that is only written to
                    count += 1
                    continue
                node = _attribute(f"p_{count}", states[count][1], key_of)
            else:
                position = positions[count - len(states)]
                kind = convert.type_of(n)
                node = Node(f"x{position}", "input", type=kind, source=str(position))
            count += 1
        elif n.op == "get_attr":
            node = _attribute(f"c_{name.strip('_')}", getattr(traced, n.target), key_of)
        elif getattr(n.target, "__name__", "") == "getitem":
            node = Node(
                name,
                "getitem",
                tuple(convert.argument(a) for a in n.args),
                type=convert.type_of(n),
                line=line_of(n),
            )
        else:
            args = tuple(convert.argument(a) for a in n.args)
            kwargs = {k: convert.argument(v) for k, v in n.kwargs.items()}
            node = Node(name, str(n.target), args, kwargs, convert.type_of(n), line=line_of(n))
        convert.names[n] = node.name
        if node.op == "param":
            seen.add(node.source)
        nodes.append(node)
    # Also a name that shares its tensor with one in use: the state_dict has both.
    unused = [_parameter(f"p_{k}", t, k) for k, t in known.items() if k not in seen]
    return Graph((*unused, *nodes), outputs, structure)


def _attribute(name: str, value: torch.Tensor, key_of: Mapping[int, str]) -> Node:
    """A tensor the reference holds: a parameter where the state_dict has it, else a literal."""
    if id(value) in key_of:
        return _parameter(name, value, key_of[id(value)])
    kind = _type_of(value)
    if value.numel() > _CONSTANT_LIMIT:
        raise CaptureError(
            "the reference holds a large tensor that is not in its state_dict",
            got=f"{tuple(value.shape)} {kind.dtype}",
            mend="register it as a parameter or persistent buffer, or pass it as an input",
        )
    dense = TensorType(kind.shape, kind.dtype, tuple(value.contiguous().stride()))
    return Node(name, "constant", type=dense, data=tuple(value.detach().reshape(-1).tolist()))


def _parameter(name: str, value: torch.Tensor, key: str) -> Node:
    return Node(name, "param", type=_type_of(value), source=key)


def _type_of(value: torch.Tensor) -> TensorType:
    return TensorType(tuple(value.shape), dtype_name(value.dtype), tuple(value.stride()))
