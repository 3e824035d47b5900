"""Prints the IR's expressions as C++ statements into the innermost block that needs them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import define, evolve, field

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, Const, Expr, Index, Load, Op, Search, Var, children
from kevolve_cpu.render.affine import Affine, offset_of
from kevolve_cpu.render.exact import Products
from kevolve_cpu.render.kinds import BITS, FLOATS, KIND, literal
from kevolve_cpu.render.operators import Lanes, Value
from kevolve_cpu.render.preamble import Preamble
from kevolve_cpu.render.scope import Scope

__all__ = ["Array", "Printer", "identifier", "raw_kind"]

_LONGEST = 72  # characters of an expression before it gets a name of its own; estimated
_TWICE = frozenset({"isnan", "isinf", "relu", "sign", "abs", "min", "max"})
_RANK = ("b1", "u8", "i8", "i16", "i32", "i64", "f32", "f64")


@define
class Array:
    """A named value kept in working storage: ``name[sum(stride * (axis - base))]``."""

    name: str
    kind: str  # what is stored
    strides: Mapping[str, int]
    result: str = ""  # kind of the value it stands for, where it differs
    vec: bool = False  # its elements are vectors (the vector axis is outermost in the task)


@define(eq=False)
class Printer:
    """State of printing one nest.

    Args:
        buffers: of the program.
        names: buffer -> C++ identifier.
        preamble: helpers of the file.
        lanes: width of the vector axis.
        vector: the vectorised axis, or "".
        lets: affine named values.
        definitions: named values that are computed where they are used.
        arrays: named values kept in working storage.
        spans: axes each named value depends on.
        written: buffers that the nest stores to.
        bases: axis -> text of the first point of its tile, where it is tiled.
        searches: named values that are searches.
        rows: searched buffer -> elements in one of its rows.
        linear: whether searches compare with every element.
        products: those that are to be rounded wherever they are computed.
        loops: axis -> name of its loop variable.
        lanes_of: load -> vector that holds its lanes already.
    """

    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    preamble: Preamble
    lanes: int
    vector: str
    lets: Mapping[str, Affine]
    spans: Mapping[str, frozenset[str]]
    written: frozenset[str]
    loops: Mapping[str, str]
    definitions: dict[str, Expr] = field(factory=dict)
    arrays: dict[str, Array] = field(factory=dict)
    bases: dict[str, str] = field(factory=dict)
    searches: dict[str, Search] = field(factory=dict)
    rows: Mapping[str, int] = field(factory=dict)
    linear: bool = False
    products: Products = field(factory=Products)
    reserved: set[str] = field(factory=set)
    lanes_of: Mapping[Load, str] = field(factory=dict)
    _uses: dict[int, int] = field(factory=dict)
    _numbers: dict[int, int] = field(factory=dict)

    def fresh(self, stem: str) -> str:
        """An identifier not used yet in this nest."""
        name, n = stem, 1
        while name in self.reserved:
            n += 1
            name = f"{stem}_{n}"
        self.reserved.add(name)
        return name

    def emitter(self, scope: Scope) -> Lanes:
        return Lanes(self.preamble, scope.width)

    def emit(self, e: Expr, scope: Scope) -> Value:
        """The value of ``e`` in ``scope``; statements it needs are appended to the right blocks."""
        self._count_uses(e)
        return self._emit(e, scope)[0]

    def convert(self, v: Value, kind: str, scope: Scope) -> Value:
        return self.emitter(scope).convert(v, kind)

    def declare(self, v: Value, scope: Scope, stem: str) -> Value:
        """Give ``v`` a variable in ``scope``."""
        name = self.fresh(stem)
        scope.lines.append(f"const {self.emitter(scope).ctype(v)} {name} = {_bare(v.code)};")
        return evolve(v, code=name)

    def _count_uses(self, e: Expr) -> None:
        stack = [e]
        while stack:
            node = stack.pop()
            seen = self._uses.get(id(node), 0)
            self._uses[id(node)] = seen + 1
            if not seen:
                stack.extend(children(node))

    def _emit(self, e: Expr, scope: Scope) -> tuple[Value, int]:
        if isinstance(e, Const):
            return Value(literal(e.value, KIND[e.dtype]), KIND[e.dtype]), 0
        if isinstance(e, Index):
            return self._index(e.axis, scope)
        if isinstance(e, Var):
            return self._var(e, scope)
        if isinstance(e, Load):
            return self._load(e, scope)
        return self._operator(e, scope)

    def _index(self, axis: str, scope: Scope) -> tuple[Value, int]:
        depth = scope.home(frozenset((axis,)))
        loop = self.loops[axis]
        if axis == self.vector and scope.width > 1:
            vector = self.emitter(scope).vector("i64")
            self.preamble.need("iota")
            return Value(f"({loop} + iota<{vector}>())", "i64", True), depth
        return Value(loop, "i64"), depth

    def _var(self, e: Var, scope: Scope) -> tuple[Value, int]:
        found = scope.value(e.name)
        if found is not None:
            return found
        if e.name in self.arrays:
            return self.load_array(self.arrays[e.name], scope)
        if e.name in self.searches:
            value, depth = self._search(self.searches[e.name], scope)
            kind = KIND[self.searches[e.name].dtype]
        else:
            value, depth = self._emit(self.definitions[e.name], scope)
            kind = KIND[self.definitions[e.name].dtype]
        home = scope.at_depth(depth)
        lanes = Lanes(self.preamble, scope.width)
        value = lanes.convert(value, kind)
        name = self.fresh(identifier(e.name))
        home.lines.append(f"const {lanes.ctype(value)} {name} = {_bare(value.code)};")
        home.values[e.name] = evolve(value, code=name)
        return home.values[e.name], depth

    def element(self, array: Array) -> str:
        """The index into ``array`` at the current loop variables."""
        terms = []
        for axis, k in array.strides.items():
            base = self.bases.get(axis)
            at = f"({self.loops[axis]} - {base})" if base else self.loops[axis]
            terms.append(at if k == 1 else f"{at} * {k}")
        return " + ".join(terms) or "0"

    def load_array(self, array: Array, scope: Scope) -> tuple[Value, int]:
        """The element of ``array`` at the current loop variables."""
        depth = scope.home(frozenset(array.strides))
        at = self.element(array)
        lanes = self.emitter(scope)
        if array.vec or self.vector not in array.strides or scope.width == 1:
            bits = (32 if array.kind == "b1" else BITS[array.kind]) if array.vec else 0
            value = Value(f"{array.name}[{at}]", array.kind, array.vec, bits)
            if array.vec:
                depth = scope.depth
        elif array.kind == "b1":
            self.preamble.need("load")
            raw = f"load<{lanes.vector('u8')}>({array.name} + {at})"
            value = Value(f"(__builtin_convertvector({raw}, {lanes.vector('i32')}) != 0)", "b1", True, 32)
        else:
            self.preamble.need("load")
            value = Value(f"load<{lanes.vector(array.kind)}>({array.name} + {at})", array.kind, True)
        return lanes.convert(value, array.result or array.kind), depth

    def _search(self, s: Search, scope: Scope) -> tuple[Value, int]:
        """Insertion position of a value (or of every lane of it)."""
        dtype = self.buffers[s.buffer].dtype
        if dtype in ("float16", "bfloat16", "bool"):
            raise UnsupportedError(
                f"search in a {dtype} tensor",
                where=f"value {s.name}",
                mend="search in a float32 or integer tensor",
            )
        self._count_uses(s.value)
        value, depth = self._emit(s.value, scope)
        lanes = self.emitter(scope)
        value = lanes.convert(value, KIND[dtype])
        uniform, lane, stride, at = self.address(s.buffer, s.index, scope)
        depth = max(depth, at)
        if lane or stride:
            raise UnsupportedError(
                "search in a different row for every lane",
                where=f"value {s.name}",
                mend="vectorise another axis",
            )
        side = "right" if s.right else "left"
        pointer = self.names[s.buffer] if uniform == "0" else f"{self.names[s.buffer]} + {uniform}"
        n = self.rows[s.buffer]
        helper = f"{'count' if self.linear else 'search'}_{side}"
        if value.vec:
            self.preamble.need(f"{helper}_lanes")
            text = f"{helper}<{lanes.vector('i64')}>({pointer}, {n}L, {value.code})"
        else:
            self.preamble.need(f"{helper}_one")
            text = f"{helper}({pointer}, {n}L, {value.code})"
        return Value(text, "i64", value.vec), depth

    def dtype_of(self, name: str) -> str:
        """The IR dtype of a named value."""
        return self.searches[name].dtype if name in self.searches else self.definitions[name].dtype

    def _operator(self, e: Op, scope: Scope) -> tuple[Value, int]:
        parts = [self._emit(a, scope) for a in e.args]
        depth = max(d for _, d in parts)
        lanes = self.emitter(scope)
        kind = KIND[e.dtype]
        args = [v for v, _ in parts]
        if e.name == "cast":
            value = lanes.convert(args[0], kind)
            if e.dtype in ("float16", "bfloat16") and e.args[0].dtype != e.dtype:
                value = lanes.round_to(value, e.dtype)
        else:
            common = kind if kind != "b1" else max((a.kind for a in args), key=_RANK.index)
            if e.name == "where":
                args = [args[0], lanes.convert(args[1], kind), lanes.convert(args[2], kind)]
            elif e.name not in ("isnan", "isinf", "logical_not", "logical_and", "logical_or", "logical_xor"):
                args = [lanes.convert(a, common) for a in args]
            if e.name in _TWICE:
                args = [self._named(a, depth, scope) for a in args]
            if (
                e.name == "div"
                and kind == "f32"
                and args[0].vec
                and not args[1].vec
                and isinstance(e.args[1], (Var, Op))
            ):
                value = self._quotient(args[0], args[1], parts[1][1], scope)
            else:
                value = lanes.operator(e.name, tuple(args), kind)
            if e.name == "mul" and kind in FLOATS:
                value = self._rounded(e, value)
        return self._placed(e, value, depth, scope)

    def _rounded(self, e: Op, value: Value) -> Value:
        """A product that is not fused with an addition where another statement has it too."""
        if not self.products.shared(e, self.definitions, self._numbers):
            return value
        self.preamble.need("rounded")
        return evolve(value, code=f"rounded({_bare(value.code)})")

    def _quotient(self, a: Value, b: Value, depth: int, scope: Scope) -> Value:
        """Lanes divided by one value, whose inverse is computed outside the loop."""
        self.preamble.need("quotient")
        key = f"Divisor({b.code})"
        if scope.known(key) is None:
            home = scope.at_depth(depth)
            name = self.fresh("divisor")
            home.lines.append(f"const Divisor {name}({b.code});")
            home.texts[key] = Value(name, "f32")
        known = scope.known(key)
        return Value(f"quotient({a.code}, {known[0].code if known else ''})", "f32", True)

    def _named(self, v: Value, depth: int, scope: Scope) -> Value:
        """``v`` under a name, for operators whose text mentions an argument twice."""
        if re.fullmatch(r"[\w.]+|-?[\d.]+(e[+-]?\d+)?f?", v.code) or len(v.code) < 4:
            return v
        known = scope.known(v.code)
        if known is not None and known[1] <= depth:
            return known[0]
        home = scope.at_depth(depth)
        home.texts[v.code] = self.declare(v, home, "t") if home is scope else self._declare_in(v, home, scope)
        return home.texts[v.code]

    def _declare_in(self, v: Value, home: Scope, scope: Scope) -> Value:
        name = self.fresh("t")
        ctype = Lanes(self.preamble, scope.width).ctype(v)
        home.lines.append(f"const {ctype} {name} = {_bare(v.code)};")
        return evolve(v, code=name)

    def _placed(self, e: Expr, value: Value, depth: int, scope: Scope) -> tuple[Value, int]:
        """``value`` as it is used: by name where it is shared, long, or belongs to an outer block."""
        known = scope.known(value.code)
        if known is not None:
            return known
        shared = self._uses.get(id(e), 0) > 1
        long = len(value.code) > _LONGEST or isinstance(e, Load)
        if not shared and not long and depth == scope.depth:
            return value, depth
        if value.code.isidentifier():
            return value, depth
        home = scope.at_depth(depth)
        home.texts[value.code] = self._declare_in(value, home, scope)
        return home.texts[value.code], depth

    # ---- memory ----

    def address(self, buffer: str, index: tuple[Expr, ...], scope: Scope) -> tuple[str, str, int, int]:
        """(uniform offset text, lane offsets text or "", stride along the vector axis, depth)."""
        form = offset_of(self.buffers[buffer], index, self.lets)
        depth = scope.home(frozenset(form.terms))
        vectorised = scope.width > 1
        uniform: list[str] = []
        for axis, k in form.terms.items():
            uniform.append(self.loops[axis] if k == 1 else f"{self.loops[axis]} * {k}")
        lane: list[str] = []
        for e, k in form.rest:
            self._count_uses(e)
            value, at = self._emit(e, scope)
            depth = max(depth, at)
            value = self.emitter(scope).convert(value, "i64")
            text = value.code if k == 1 else f"{value.code} * {k}"
            (lane if value.vec else uniform).append(text)
        if form.constant or not uniform:
            uniform.append(str(form.constant))
        stride = form.stride(self.vector) if vectorised and self.vector in scope.bound else 0
        if lane and stride:
            self.preamble.need("iota")
            iota = f"iota<{self.emitter(scope).vector('i64')}>()"
            lane.append(iota if stride == 1 else f"{iota} * {stride}")
        elif stride not in (0, 1):
            self.preamble.need("iota")
            lane.append(f"iota<{self.emitter(scope).vector('i64')}>() * {stride}")
        return " + ".join(uniform), " + ".join(lane), stride, depth

    def _load(self, e: Load, scope: Scope) -> tuple[Value, int]:
        if e in self.lanes_of:
            kind = raw_kind(self.buffers[e.buffer].dtype)
            value = self._loaded(Value(self.lanes_of[e], kind, True), self.buffers[e.buffer].dtype, scope)
            return self._placed(e, self.emitter(scope).convert(value, KIND[e.dtype]), scope.depth, scope)
        uniform, lane, stride, depth = self.address(e.buffer, e.index, scope)
        mask = other = None
        if e.mask is not None:
            mask, at = self._emit(e.mask, scope)
            depth = max(depth, at)
            if mask.code == "true":
                mask = None
        if mask is not None:
            filler = e.other if e.other is not None else Const(0, e.dtype)
            other, at = self._emit(filler, scope)
            depth = max(depth, at)
        if e.buffer in self.written:
            depth = scope.depth
        pointer = f"{self.names[e.buffer]} + {uniform}" if uniform != "0" else self.names[e.buffer]
        dtype = e.dtype if e.dtype in KIND else self.buffers[e.buffer].dtype
        stored = self.buffers[e.buffer].dtype
        vec = bool(lane) or stride == 1 or (mask is not None and mask.vec)
        if not vec:
            text = f"{self.names[e.buffer]}[{uniform}]"
            value = self._loaded(Value(text, raw_kind(stored)), stored, scope)
            value = self.emitter(scope).convert(value, KIND[dtype])
            if mask is not None and other is not None:
                filler_value = self.emitter(scope).convert(other, KIND[dtype])
                value = self.emitter(scope).select(mask, value, filler_value)
        else:
            value = self._vector_load(pointer, lane, stride, stored, mask, other, KIND[dtype], scope)
        return self._placed(e, value, depth, scope)

    def _loaded(self, raw: Value, dtype: str, scope: Scope) -> Value:
        """What was read from memory, as the kind it is computed in."""
        lanes = self.emitter(scope)
        if dtype == "bfloat16":
            return lanes.widen(raw)
        if dtype == "bool":
            if not raw.vec:
                return Value(f"({raw.code} != 0)", "b1")
            wide = f"__builtin_convertvector({raw.code}, {lanes.vector('i32')})"
            return Value(f"({wide} != 0)", "b1", True, 32)
        if dtype == "float16":
            return lanes.convert(raw, "f32")
        return raw

    def _vector_load(
        self,
        pointer: str,
        lane: str,
        stride: int,
        dtype: str,
        mask: Value | None,
        other: Value | None,
        kind: str,
        scope: Scope,
    ) -> Value:
        lanes = self.emitter(scope)
        raw = raw_kind(dtype)
        vector = lanes.vector(raw)
        tail = f", {scope.tail}" if scope.tail else ""
        if mask is not None and other is not None and mask.vec:
            return self._masked_load(pointer, lane, stride, dtype, mask, other, kind, scope)
        if lane:
            self.preamble.need("gather_lanes" if tail else "gather")
            text = f"gather<{vector}>({pointer}, {lane}{tail})"
        else:
            self.preamble.need("load_lanes" if tail else "load")
            text = f"load<{vector}>({pointer}{tail})"
        if mask is not None and other is not None:  # one condition for all lanes
            text = f"({mask.code} ? {text} : {vector}{{}})"
            value = lanes.convert(self._loaded(Value(text, raw, True), dtype, scope), kind)
            return lanes.select(lanes.splat(mask), value, lanes.splat(lanes.convert(other, kind)))
        return lanes.convert(self._loaded(Value(text, raw, True), dtype, scope), kind)

    def _masked_load(
        self,
        pointer: str,
        lane: str,
        stride: int,
        dtype: str,
        mask: Value,
        other: Value,
        kind: str,
        scope: Scope,
    ) -> Value:
        lanes = self.emitter(scope)
        raw = raw_kind(dtype)
        vector = lanes.vector(raw)
        self.preamble.need("gather_masked")
        condition = mask.code
        if scope.tail:
            self.preamble.need("keep")
            condition = f"keep({mask.code}, {lanes.vector(f'i{mask.bits}')}{{}}, {scope.tail})"
        if not lane:
            index = lanes.vector("i64")
            self.preamble.need("iota")
            lane = f"iota<{index}>()" if stride else f"{index}{{}}"
        text = f"gather_masked({pointer}, {lane}, {condition}, {vector}{{}})"
        value = lanes.convert(self._loaded(Value(text, raw, True), dtype, scope), kind)
        return lanes.select(mask, value, lanes.splat(lanes.convert(other, kind)))

    def stored(self, value: Value, dtype: str, scope: Scope) -> Value:
        """``value`` as it goes into memory."""
        lanes = self.emitter(scope)
        if dtype == "bfloat16":
            return lanes.narrow(lanes.convert(value, "f32"))
        if dtype == "float16":
            return lanes.convert(lanes.convert(value, "f32"), "f16")
        if dtype == "bool":
            flag = lanes.convert(value, "b1")
            if not flag.vec:
                return Value(flag.code, "u8")
            narrow = f"(-__builtin_convertvector({flag.code}, {lanes.vector('i8')}))"
            return Value(f"({lanes.vector('u8')}){narrow}", "u8", True)
        return lanes.convert(value, KIND[dtype])


def raw_kind(dtype: str) -> str:
    """The kind of an element as it lies in memory."""
    return {"bfloat16": "u16", "float16": "f16", "bool": "u8"}.get(dtype, KIND[dtype])


def _bare(text: str) -> str:
    """``text`` without a pair of parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and i < len(text) - 1:
            return text
    return text[1:-1]


def identifier(name: str) -> str:
    """``name`` as a C++ and Python identifier."""
    clean = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
    return clean if clean and not clean[0].isdigit() else f"v{clean}"
