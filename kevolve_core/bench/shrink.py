"""Smaller versions of a problem: module-level sizes halved until the work fits a budget.

Sizes are the integers in module-level assignments and in ``get_inputs`` and ``get_init_inputs``.
Equal sizes are halved together (they are often coupled), the largest first; a halving after which the module
does not run on tensors without data is taken back. What a problem computes never changes: classes are left
alone.
"""

from __future__ import annotations

import ast
import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kevolve_core import syntax
from kevolve_core.errors import SpecError

__all__ = ["SCALES", "Budget", "Cost", "cost_of", "shrunk"]


@frozen
class Cost:
    """Multiply-adds times two in products and convolutions; elements that operators write, and those of the
    inputs and the state."""

    flops: float
    elements: float


@frozen
class Budget:
    """What a problem may cost at a scale."""

    flops: float
    elements: float

    def admits(self, cost: Cost) -> bool:
        return self.excess(cost) <= 1.0

    def excess(self, cost: Cost) -> float:
        """How many times over the budget ``cost`` is."""
        return max(cost.flops / self.flops, cost.elements / self.elements)


#: ``small``: milliseconds on a few CPU cores, and still more than a cache holds. Estimated.
SCALES: Mapping[str, Budget | None] = {
    "tiny": Budget(2e7, 2e5),
    "small": Budget(1e9, 4e6),
    "full": None,
}

_LEAST = 16  # sizes below are kernel sizes, strides, counts of heads or layers
_LEAST_BATCH = 1
_FUNCTIONS = frozenset(["get_inputs", "get_init_inputs"])
_SECONDS = 10.0  # after which a problem stays as large as it is then
_GAIN = 0.97  # share of the excess that a halving may leave to be worth its change


class _Sizes(ast.NodeTransformer):
    """Visits every size: ``replace(key, value)`` gives its new value. A key is (is a batch, value)."""

    def __init__(self, by: Mapping[tuple[bool, int], int]) -> None:
        self.by = by
        self.seen: dict[tuple[bool, int], None] = {}
        self._batch = False

    def visit_Module(self, node: ast.Module) -> ast.AST:
        for k, statement in enumerate(node.body):
            if isinstance(statement, ast.Assign):
                names = [t.id for t in ast.walk(statement) if isinstance(t, ast.Name)]
                self._batch = bool(names) and names[0].startswith("batch")
                statement.value = self.visit(statement.value)
            elif isinstance(statement, ast.FunctionDef) and statement.name in _FUNCTIONS:
                self._batch = False
                node.body[k] = self.generic_visit(statement)  # type: ignore[call-overload]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        value = _folded(node)
        if value is not None:
            return self._size(ast.copy_location(ast.Constant(value), node))
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self._size(node)

    def _size(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int):
            return node
        if value < (2 if self._batch else _LEAST):
            return node
        key = (self._batch, value)
        self.seen[key] = None
        return ast.copy_location(ast.Constant(self.by.get(key, value)), node)


def _folded(node: ast.expr) -> int | None:
    """The value of a product, power or sum of integer literals."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int) and not isinstance(node.value, bool) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Pow, ast.Add)):
        left, right = _folded(node.left), _folded(node.right)
        if left is not None and right is not None:
            if isinstance(node.op, ast.Pow):
                return left**right if 0 <= right < 64 else None
            return left * right if isinstance(node.op, ast.Mult) else left + right
    return None


def shrunk(source: str, budget: Budget | None, where: str = "problem") -> str:
    """``source`` with sizes halved until it fits ``budget``, or as far as they go; None leaves it alone.

    Raises:
        SpecError: the problem does not run as it is.
    """
    if budget is None:
        return source
    try:
        syntax.parse(source)
    except SyntaxError as error:
        raise SpecError("the problem is not Python", got=str(error), where=where) from error
    probe = _Sizes({})
    probe.visit(syntax.parse(source))
    sizes = {key: key[1] for key in probe.seen}
    least = {key: _LEAST_BATCH if key[0] else _LEAST for key in sizes}
    fixed: set[tuple[bool, int]] = set()
    text = source
    try:
        cost = _quietly(source)
    except Exception as error:
        raise SpecError(
            "the problem does not run on tensors without data",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            where=where,
            mend=f"pip install {error.name}" if isinstance(error, ModuleNotFoundError) else None,
        ) from error
    started = time.monotonic()
    while not budget.admits(cost) and time.monotonic() - started < _SECONDS:
        free = [k for k in sizes if k not in fixed and sizes[k] // 2 >= least[k]]
        if not free:
            break
        largest = max(free, key=lambda k: (sizes[k], k[0]))
        alone = [k for k in free if sizes[k] == sizes[largest] and k[0] == largest[0]]
        coupled = [k for k in free if sizes[k] == sizes[largest]]
        excess = budget.excess(cost)
        factor = 4 if excess > 64 and sizes[largest] // 4 >= least[largest] * 4 else 2
        for group in (alone, coupled):  # a batch and a feature of one size may have to stay equal
            wanted = {**sizes, **{k: sizes[k] // factor for k in group}}
            attempt = _rewritten(source, wanted)
            found = _tried(attempt)
            if found is not None or group == coupled:
                break
        if found is None or budget.excess(found) > _GAIN * excess:
            fixed.update(alone)
        else:
            sizes, text, cost = wanted, attempt, found
    return text


def _rewritten(source: str, sizes: Mapping[tuple[bool, int], int]) -> str:
    return ast.unparse(ast.fix_missing_locations(_Sizes(sizes).visit(syntax.parse(source))))


class _Elements(TorchDispatchMode):  # type: ignore[misc]
    """Counts the elements that operators write."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            values = out if isinstance(out, (tuple, list)) else (out,)
            self.count += sum(v.numel() for v in values if isinstance(v, torch.Tensor))
        return out


class _Recurrent(TorchFunctionMode):  # type: ignore[misc]
    """Whole recurrent layers by their shapes and cost, not step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in {"lstm", "gru", "rnn_tanh", "rnn_relu"} and len(args) == 9:
            return self._layer(name, *args)
        return func(*args, **(kwargs or {}))

    def _layer(self, name: str, x: Any, state: Any, weights: Any, *rest: Any) -> Any:
        both, batch_first = rest[4], rest[5]
        hidden = state[0] if name == "lstm" else state
        batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
        if weights[0].shape[1] != x.shape[2] or hidden.shape[1] != batch:
            raise ValueError("sizes of a recurrent layer do not fit")
        self.flops += 2.0 * batch * steps * sum(w.numel() for w in weights if w.dim() == 2)
        out = x.new_empty((*x.shape[:2], hidden.shape[2] * (2 if both else 1)))
        return (out, state[0], state[1]) if name == "lstm" else (out, state)


def cost_of(source: str) -> Cost:
    """The cost of a problem, without running it on data. Raises whatever its code raises."""
    namespace: dict[str, Any] = {"__name__": "kevolve_problem"}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        exec(compile(source, "<problem>", "exec"), namespace)
        inputs = namespace["get_inputs"]()
        given = namespace.get("get_init_inputs", list)()
        try:
            model = _constructed(namespace, given)
        except DataDependentOutputException:  # the constructor looks at values: it gets real ones
            with unset_fake_temporarily():
                model = _constructed(namespace, given)
        with FlopCounterMode(display=False) as flops, _Elements() as elements, _Recurrent() as recurrent:
            model(*inputs)
    held = sum(t.numel() for t in (*inputs, *model.state_dict().values()) if isinstance(t, torch.Tensor))
    return Cost(float(flops.get_total_flops()) + recurrent.flops, float(elements.count + held))


def _constructed(namespace: Mapping[str, Any], given: Any) -> torch.nn.Module:
    made = namespace["Model"](**given) if isinstance(given, dict) else namespace["Model"](*given)
    assert isinstance(made, torch.nn.Module)
    return made.eval()


def _quietly(source: str) -> Cost:
    """`cost_of`, without the traceback that is printed for every size that does not fit."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        return cost_of(source)
    finally:
        log.disabled = disabled


def _tried(source: str) -> Cost | None:
    try:
        return _quietly(source)
    except Exception:
        return None  # sizes that do not fit raise whatever the problem's code raises: they are taken back
