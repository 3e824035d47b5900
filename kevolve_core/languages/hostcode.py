"""Host code that generated candidates of every language share: library calls, views, and the entry.

Everything here is Python text: `torch.ops.aten` operators on strided views of a case's buffers, the
dispatch over cases, and ``ModelNew`` with the reference's state or a function with its signature.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kevolve_core import syntax
from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, LibraryCall, Operand, Program
from kevolve_core.kernelspec import KernelSpec

__all__ = [
    "ALL_LAID_OUT", "LAID_OUT", "REPLAY_IMPORT", "aliases", "call_text", "dispatch_text", "literal",
    "result_text", "view_text",
]  # fmt: skip

#: A helper of the entry: inputs keep the strides that the kernels were made for.
LAID_OUT = '''
def _laid_out(tensor, strides):
    """`tensor` with the strides the kernels were generated for, but for those of dimensions of size 1."""
    given = tensor.stride()
    if given == strides or all(n == 1 or s == t for n, s, t in zip(tensor.shape, given, strides)):
        return tensor
    laid = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return laid.copy_(tensor)
'''

#: The same for what a call is given, all at once: one comparison where all is as it usually is.
ALL_LAID_OUT = '''
def _all_laid_out(tensors, strides):
    """Each of `tensors` with its `strides`."""
    if tuple(map(torch.Tensor.stride, tensors)) == strides:
        return tensors
    return tuple(map(_laid_out, tensors, strides))
'''

#: What an entry imports whose cases are replayed.
REPLAY_IMPORT = "from kevolve_core.native import replayed"


def literal(value: Any) -> str:
    """Python text of an attribute or a structure."""
    if isinstance(value, float) and value != value:
        return 'float("nan")'
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if isinstance(value, str) and value.startswith("torch."):
        return value
    if isinstance(value, (list, tuple)):
        inside = ", ".join(literal(v) for v in value)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


def _named_operands(call: LibraryCall) -> set[int]:
    """Operands that an attribute refers to."""
    lists = [v for v in call.attributes.values() if isinstance(v, (list, tuple))]
    return {x["operand"] for v in lists for x in v if isinstance(x, Mapping)}


def _attribute(value: Any, call: LibraryCall, view: Callable[[int, Operand], str]) -> str:
    """Python text of an attribute; ``{"operand": k}`` in a list stands for a tensor."""
    if isinstance(value, (list, tuple)) and any(isinstance(x, Mapping) for x in value):
        parts = [
            view(x["operand"], call.operands[x["operand"]]) if isinstance(x, Mapping) else literal(x)
            for x in value
        ]
        return f"[{', '.join(parts)}]"
    return literal(value)


def _schema(call: LibraryCall) -> tuple[str, Any]:
    """The overload's Python name and its schema."""
    import torch

    name = call.op.removeprefix("aten::")
    packet_name, _, overload = name.partition(".")
    packet = getattr(torch.ops.aten, packet_name, None)
    if packet is None:
        raise UnsupportedError(f"PyTorch has no operator {call.op}", where=f"step {call.name}")
    overloads = [overload] if overload else sorted(packet.overloads(), key=lambda o: o != "default")
    for candidate in overloads:
        schema = getattr(packet, candidate)._schema
        known = {a.name for a in schema.arguments}
        writes = any(a.is_out for a in schema.arguments)  # an argument may be called `out` and be read
        if set(call.attributes) <= known and not writes:
            return f"{packet_name}.{candidate}", schema
    raise UnsupportedError(
        f"no overload of {call.op} takes {sorted(call.attributes)}", where=f"step {call.name}"
    )


def call_text(call: LibraryCall, view: Callable[[int, Operand], str], out: str = "") -> str:
    """The call as a Python expression; ``view`` gives the text of an operand, from its number
    and itself. With ``out`` the out variant where there is one, else ``out`` is copied into."""
    import torch

    name, schema = _schema(call)
    named = _named_operands(call)
    operands = [(i, o) for i, o in enumerate(call.operands) if i not in named]
    arguments: list[str] = []
    positional = True
    for a in schema.arguments:
        if a.name in call.attributes:
            text = _attribute(call.attributes[a.name], call, view)
        elif "Tensor" in str(a.type) and operands:
            if "List[" in str(a.type):
                text = "[" + ", ".join(view(i, o) for i, o in operands) + "]"
                operands = []
            else:
                text = view(*operands.pop(0))
        else:
            positional = False
            continue
        arguments.append(text if positional and not a.kwarg_only else f"{a.name}={text}")
    if operands:
        raise UnsupportedError(f"{call.op} takes fewer tensors than it is given", where=f"step {call.name}")
    plain = f"torch.ops.aten.{name}({', '.join(arguments)})"
    if call.order:
        plain = f"{plain}.permute({literal(call.order)})"
        return f"{out}.copy_({plain})" if out else plain
    if not out:
        return plain
    packet = getattr(torch.ops.aten, name.split(".")[0])
    if name.endswith(".default") and "out" in packet.overloads():
        inside = ", ".join([*arguments, f"out={out}"])
        return f"torch.ops.aten.{name.split('.')[0]}.out({inside})"
    return f"{out}.copy_({plain})"


def aliases(call: LibraryCall) -> bool:
    """Whether what the call returns may lie in the memory of an operand, as the overload's schema says."""
    return any(r.alias_info is not None for r in _schema(call)[1].returns)


def view_text(operand: Operand, buffers: Mapping[str, Buffer], variable: str) -> str:
    """The operand as a view of its buffer's tensor."""
    b = buffers[operand.buffer]
    if operand.shape == b.shape and operand.strides == b.stride and operand.offset == 0:
        return variable
    place = f"{variable}.storage_offset()"
    place = f"{operand.offset} + {place}" if operand.offset else place
    return f"{variable}.as_strided({literal(operand.shape)}, {literal(operand.strides)}, {place})"


def result_text(structure: Any, leaf: Callable[[int], str]) -> str:
    """Python text of a program's result: ``structure`` has a number a tensor, ``leaf`` its text."""
    if isinstance(structure, bool) or structure is None:
        return repr(structure)
    if isinstance(structure, int):
        return leaf(structure)
    if isinstance(structure, Mapping):
        return "{" + ", ".join(f"{k!r}: {result_text(v, leaf)}" for k, v in structure.items()) + "}"
    inside = [result_text(v, leaf) for v in structure]
    if isinstance(structure, list):
        return f"[{', '.join(inside)}]"
    return f"({', '.join(inside)}{',' if len(inside) == 1 else ''})"


def _signature(spec: KernelSpec) -> tuple[list[str], str] | None:
    """(names of the positional parameters, text of all parameters) of the reference, or None."""
    try:
        tree = syntax.parse(spec.reference.source)
    except SyntaxError:
        return None
    node: Any = next((n for n in tree.body if getattr(n, "name", None) == spec.reference.symbol), None)
    if isinstance(node, ast.ClassDef):
        node = next((n for n in node.body if getattr(n, "name", None) == "forward"), None)
    if not isinstance(node, ast.FunctionDef) or node.args.vararg or node.args.kwarg:
        return None
    for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        a.annotation = None
    for defaults in (node.args.defaults, node.args.kw_defaults):
        for i, d in enumerate(defaults):
            try:
                if d is not None:
                    ast.literal_eval(d)
            except ValueError:
                defaults[i] = ast.Constant(None)
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names = names[1:] if spec.reference.kind == "module" else names
    text = ast.unparse(node.args)
    return names, text.partition(", ")[2] if spec.reference.kind == "module" else text


def dispatch_text(
    spec: KernelSpec, programs: Sequence[Program], functions: Sequence[str], replay: bool = False
) -> str:
    """The table of cases and the candidate's entry: a function of the reference's name and signature, or
    ``ModelNew`` with its state. ``functions`` run one case each: inputs by position, then parameters. With
    ``replay`` each goes through `kevolve_core.native.replayed`, which `REPLAY_IMPORT` imports."""
    by_params = len({tuple((b.source, b.shape) for b in p.params()) for p in programs}) > 1
    table: list[str] = []
    for p, function in zip(programs, functions, strict=True):
        key = [*p.inputs(), *(p.params() if by_params else ())]
        guard = ", ".join(f"({literal(b.shape)}, torch.{b.dtype})" for b in key)
        if replay:
            function = f"replayed({function}, {len(p.inputs())})"
        table.append(f"    ({guard}{',' if len(key) == 1 else ''}): {function},")
    cases = "_CASES = {\n" + "\n".join(table) + "\n}\n"
    return f"{cases}\n\n{_entry(spec, programs, by_params)}"


def _entry(spec: KernelSpec, programs: Sequence[Program], by_params: bool) -> str:
    signature = _signature(spec)
    positions = [int(b.source) for b in programs[0].inputs()]
    module = spec.reference.kind == "module"
    if signature is None or any(i >= len(signature[0]) for i in positions):
        text, arguments = "*arguments", [f"arguments[{i}]" for i in positions]
    else:
        text, arguments = signature[1], [signature[0][i] for i in positions]
    pad = "        " if module else "    "
    body = [f"tensors = ({', '.join(arguments)}{',' if len(arguments) == 1 else ''})"]
    weights = module and any(True for _ in programs[0].params())
    if weights:
        body.append("weights = tuple([state[name] for state, name in self._places])")
    keyed = "tensors + weights" if by_params else "tensors"
    body += [
        f"run = _CASES.get(tuple((t.shape, t.dtype) for t in {keyed}))",
        "if run is None:",
        f'    got = ", ".join(f"{{tuple(t.shape)}} {{t.dtype}}" for t in {keyed})',
        f'    raise ValueError(f"{spec.name} was generated for other shapes or dtypes than {{got}}")',
        f"return run(*tensors{', *weights' if weights else ''})",
    ]
    if not module:
        return f"def {spec.reference.symbol}({text}):\n" + "\n".join(pad + line for line in body) + "\n"
    return _module_text(programs, text, [pad + line for line in body])


def _module_text(programs: Sequence[Program], parameters: str, body: list[str]) -> str:
    first = [(b.source, b.shape, b.dtype) for b in programs[0].params()]
    shapes = [f'    "{source}": ({literal(shape)}, torch.{dtype}),' for source, shape, dtype in first]
    state = "_STATE = {\n" + "\n".join(shapes) + "\n}" if shapes else "_STATE = {}"
    comma = ", " if parameters else ""
    lines = "\n".join(body)
    return f'''{state}


class _Scope(torch.nn.Module):
    """Holds state under the reference's names; takes weights of any shape that a case has."""

    def _load_from_state_dict(self, state, prefix, *rest):
        for name, known in (*self._parameters.items(), *self._buffers.items()):
            given = state.get(prefix + name)
            if given is not None and given.shape != known.shape:
                known.data = torch.empty_like(given, dtype=known.dtype)
        super()._load_from_state_dict(state, prefix, *rest)


class ModelNew(_Scope):
    def __init__(self, *arguments, **options):
        super().__init__()
        self._places = []  # of the state in its order: a module's dict of tensors, and a name in it
        for key, (shape, dtype) in _STATE.items():
            holder, *path = self, *key.split(".")
            for part in path[:-1]:
                if part not in holder._modules:
                    holder.add_module(part, _Scope())
                holder = holder._modules[part]
            value = torch.zeros(shape, dtype=dtype)
            if dtype.is_floating_point:
                holder.register_parameter(path[-1], torch.nn.Parameter(value, requires_grad=False))
                self._places.append((holder._parameters, path[-1]))
            else:
                holder.register_buffer(path[-1], value)
                self._places.append((holder._buffers, path[-1]))

    def forward(self{comma}{parameters}):
{lines}
'''
