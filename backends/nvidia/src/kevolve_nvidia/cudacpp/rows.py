"""Prints a nest as one CUDA C++ kernel that holds rows in registers.

``lanes`` threads share a row: each keeps every value of its columns from the first load to the last store,
and a reduction is a shuffle (beyond a warp, shuffles and one exchange in shared memory). Columns are accessed
``vector`` at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Axis,
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    Load,
    LoopNest,
    Op,
    Reduce,
    Store,
    Var,
    address,
    walk,
)
from kevolve_core.languages.triton.render.tiling import Tiling, expressions, tiling_of
from kevolve_nvidia.cudacpp.operators import CUDA_TYPES, FLOATS, VALUE_TYPES, constant_text, operator_text
from kevolve_nvidia.cudacpp.schedule import WIDEST_ROW, RowSchedule

__all__ = ["RowKernel", "check_nest", "print_rows"]

_COMBINERS = {"sum": "+", "prod": "*", "max": "maximum", "min": "minimum", "any": "||", "all": "&&"}


@frozen
class RowKernel:
    """A printed kernel: its text, the buffers it takes in order (the last ``written`` are results), launch
    sizes, and the helpers of `kevolve_nvidia.cudacpp.operators` that it calls."""

    name: str
    text: str
    buffers: tuple[str, ...]
    written: int
    grid: int
    block: int
    helpers: tuple[str, ...]


def check_nest(nest: LoopNest) -> Tiling:
    """The nest's rows and columns.

    Raises:
        UnsupportedError: it is no walk over rows with reductions of whole ones.
    """

    def refuse(why: str) -> UnsupportedError:
        return UnsupportedError(f"the CUDA row kernel {why}", where=f"nest {nest.name}")

    tiling = tiling_of(nest)
    if len(tiling.cols) != 1:
        raise refuse("walks one axis of columns")
    column = tiling.cols[0]
    if tiling.combines and column.extent > WIDEST_ROW:
        raise refuse(f"holds rows of at most {WIDEST_ROW} values")
    for s in nest.body:
        if isinstance(s, Reduce):
            if s.combiner not in _COMBINERS or tuple(s.axes) != (column.name,):
                raise refuse("reduces whole rows by sum, prod, max, min, any or all")
        elif isinstance(s, Store):
            if s.mode != "set" or s.mask is not None:
                raise refuse("stores every value, once")
        elif not isinstance(s, Let):
            raise refuse(f"has no {type(s).__name__}")
        for root in expressions(s):
            for e in walk(root):
                if e.dtype not in CUDA_TYPES:
                    raise refuse(f"has no dtype {e.dtype}")
                if isinstance(e, Load) and e.mask is not None:
                    raise refuse("reads what is there: no masked load")
                if isinstance(e, Op):
                    operator_text(e, ["x"] * len(e.args), set())
    return tiling


def print_rows(
    nest: LoopNest, buffers: Mapping[str, Buffer], names: Mapping[str, str], s: RowSchedule, function: str
) -> RowKernel:
    """The kernel of ``nest``, named ``function``. Raises `UnsupportedError`, see `check_nest`."""
    return _Printer(nest, buffers, names, s, check_nest(nest)).kernel(function)


@define
class _Printer:
    nest: LoopNest
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    s: RowSchedule
    tiling: Tiling
    lines: list[str] = field(factory=list)
    need: set[str] = field(factory=set)
    _once: dict[Expr, str] = field(factory=dict)
    _arrays: dict[Expr, str] = field(factory=dict)
    _inside: dict[Expr, str] = field(factory=dict)
    _loop: list[str] | None = None
    _lets: dict[str, Let] = field(factory=dict)
    _spans: dict[str, frozenset[str]] = field(factory=dict)
    _count: int = 0
    _used: set[str] = field(factory=set)
    _exchanges: int = 0
    _guarded: str = ""
    _pack: str = ""

    @property
    def column(self) -> Axis:
        return self.tiling.cols[0]

    # --- the kernel -----------------------------------------------------------------------------------------

    def kernel(self, function: str) -> RowKernel:
        nest, s = self.nest, self.s
        self._spans = dict(nest.spans())
        self._lets = {x.name: x for x in nest.body if isinstance(x, Let)}
        tiles = 1 if self.tiling.combines else -(-self.column.extent // (s.lanes * s.vector * s.chunks))
        self._place(tiles)
        uses = self._statements_using()
        for x in nest.body:
            if isinstance(x, Let):
                if self._columns(x.value) and uses.get(x.name, 0) > 1:
                    self._keep(x)
            elif isinstance(x, Reduce):
                self._reduce(x)
            elif isinstance(x, Store):
                self._store(x)
        writes = nest.writes()
        reads = sorted(nest.reads() - set(writes))
        arguments = (*reads, *writes)
        parameters = [
            f"const {CUDA_TYPES[self.buffers[b].dtype]}* __restrict__ {self.names[b]}" for b in reads
        ]
        for b in writes:
            alone = "" if b in nest.reads() else "__restrict__ "
            parameters.append(f"{CUDA_TYPES[self.buffers[b].dtype]}* {alone}{self.names[b]}")
        rows = self.tiling.row_count
        blocks = -(-rows // (s.threads // s.lanes)) * tiles
        covers = ", ".join(dict.fromkeys(nest.covers)) or nest.name
        size = f"{rows} rows of {self.column.extent}"
        text = "\n".join([
            f"// {covers}: {size}, {s.lanes} threads a row, {s.vector} columns an access",
            f'extern "C" __global__ void __launch_bounds__({s.threads})',
            f"{function}({', '.join(parameters)}) {{",
            *(f"  {line}" for line in self.lines),
            "}",
        ])  # fmt: skip
        return RowKernel(function, text, arguments, len(writes), blocks, s.threads, tuple(sorted(self.need)))

    def _place(self, tiles: int) -> None:
        """Which row a thread works on, and its first column."""
        s, rows = self.s, self.tiling.row_count
        per_block = s.threads // s.lanes
        block = "blockIdx.x"
        if tiles > 1:
            self.lines.append(f"const int tile = blockIdx.x % {tiles};")
            block = f"blockIdx.x / {tiles}"
        wanted = f"(long long)({block}) * {per_block} + threadIdx.x / {s.lanes}"
        if rows % per_block:
            self.lines.append(f"const long long asked = {wanted};")
            self.lines.append(f"const bool live = asked < {rows};")
            self.lines.append(f"const long long row = live ? asked : {rows - 1};")
        else:
            self.lines.append(f"const long long row = {wanted};")
        self.lines.append(f"const int lane = threadIdx.x % {s.lanes};")
        step = 1
        for axis in reversed(self.tiling.rows):
            over = f"row / {step}" if step > 1 else "row"
            whole = step * axis.extent == rows
            self.lines.append(
                f"const long long {self._axis(axis.name)} = {over}{'' if whole else f' % {axis.extent}'};"
            )
            step *= axis.extent
        first = f"tile * {s.lanes * s.vector * s.chunks} + " if tiles > 1 else ""
        self.lines.append(f"const int first = {first}lane * {s.vector};")

    def _axis(self, name: str) -> str:
        return f"at_{name}"

    # --- statements -----------------------------------------------------------------------------------------

    def _statements_using(self) -> dict[str, int]:
        """Named value -> statements that read it, through values that are not kept too."""
        found: dict[str, int] = {}
        for x in self.nest.body:
            read = {v.name for e in expressions(x) for v in walk(e) if isinstance(v, Var)}
            for name in read:
                found[name] = found.get(name, 0) + 1
        return found

    def _keep(self, x: Let) -> None:
        """A named value of every column, in registers."""
        name = self._name("v")
        dtype = x.value.dtype
        self._array(name, dtype)
        self._begin()
        value = self._value(x.value)
        self._emit(f"{name}[i][k] = {value};")
        self._end()
        self._arrays[Var(x.name, dtype)] = name

    def _reduce(self, x: Reduce) -> None:
        name, dtype = self._name("r"), x.accumulate
        kind = VALUE_TYPES[dtype]
        self.lines.append(f"{kind} {name} = {_identity(x.combiner, dtype)};")
        self._begin()
        value = self._value(x.value)
        if VALUE_TYPES[x.value.dtype] != kind:
            value = f"static_cast<{kind}>({value})"
        self._emit(f"{name} = {self._combined(x.combiner, name, value, kind)};")
        self._end()
        self._across(name, x.combiner, kind)
        result = name
        if x.dtype != dtype:
            result = self._name("t")
            cast = operator_text(Op("cast", (Var(x.name, dtype),), x.dtype), [name], self.need, once=True)
            self.lines.append(f"const {VALUE_TYPES[x.dtype]} {result} = {cast};")
        self._once[Var(x.name, x.dtype)] = result

    def _combined(self, combiner: str, a: str, b: str, kind: str) -> str:
        word = _COMBINERS[combiner]
        if word.isalpha():
            self.need.add(word)
            return f"{word}<{kind}>({a}, {b})"
        return f"{a} {word} {b}"

    def _across(self, name: str, combiner: str, kind: str) -> None:
        """Combine ``name`` over the threads of a row; all of them have the result."""
        lanes, threads = self.s.lanes, self.s.threads
        shuffled = "int" if kind in ("bool", "short", "signed char", "unsigned char") else kind
        other = f"__shfl_xor_sync(0xffffffffu, {name}, by)"
        if shuffled != kind:
            other = f"static_cast<{kind}>(__shfl_xor_sync(0xffffffffu, static_cast<{shuffled}>({name}), by))"
        if lanes > 1:
            step = self._combined(combiner, name, other, kind)
            self.lines.append("#pragma unroll")
            self.lines.append(f"for (int by = {min(lanes, 32) // 2}; by > 0; by /= 2) {name} = {step};")
        if lanes <= 32:
            return
        warps, scratch = lanes // 32, f"shared_{self._exchanges}"
        self._exchanges += 1
        self.lines.append(f"__shared__ {kind} {scratch}[{threads // 32}];")
        self.lines.append(f"if (threadIdx.x % 32 == 0) {scratch}[threadIdx.x / 32] = {name};")
        self.lines.append("__syncthreads();")
        start = f"threadIdx.x / {lanes} * {warps}" if threads > lanes else "0"
        self.lines.append(f"{name} = {scratch}[{start}];")
        self.lines.append("#pragma unroll")
        step = self._combined(combiner, name, f"{scratch}[{start} + w]", kind)
        self.lines.append(f"for (int w = 1; w < {warps}; ++w) {name} = {step};")

    def _store(self, x: Store) -> None:
        buffer = self.buffers[x.buffer]
        guard = "live && " if self._partial_rows() else ""
        if not self._columns(x.value) and not any(self._columns(i) for i in x.index):
            value, at = self._value(x.value), self._address(x, buffer)
            self.lines.append(f"if ({guard}lane == 0) put({self.names[x.buffer]} + {at}, {value});")
            return
        vector = self._vectorised(x, buffer)
        dtype = x.value.dtype
        if not vector:
            self._begin(guard="live" if guard else "")
            value = self._value(x.value)
            self._emit(f"put({self.names[x.buffer]} + {self._address(x, buffer, loop=True)}, {value});")
            self._end()
            return
        base = self._base(x, buffer)
        self._begin(guard="live" if guard else "", pack=VALUE_TYPES[dtype])
        value = self._value(x.value)
        self._emit(f"pack[k] = {value};")
        self._end(after=f"put_all<{self.s.vector}>({self.names[x.buffer]} + {base} + col, pack);")

    def _partial_rows(self) -> bool:
        return bool(self.tiling.row_count % (self.s.threads // self.s.lanes))

    # --- loops over columns ---------------------------------------------------------------------------------

    def _full(self) -> bool:
        """Whether every access of every thread is inside the row."""
        s = self.s
        tile = s.lanes * s.vector * s.chunks
        return self.column.extent % tile == 0

    def _begin(self, guard: str = "", pack: str = "") -> None:
        self._loop, self._inside = [], {}
        conditions = [c for c in (guard, "" if self._full() else f"col < {self.column.extent}") if c]
        self._guarded = f"  if ({' && '.join(conditions)}) {{" if conditions else "  {"
        self._pack = f"    {pack} pack[{self.s.vector}];" if pack else ""

    def _emit(self, line: str) -> None:
        assert self._loop is not None
        self._loop.append(line)

    def _end(self, after: str = "") -> None:
        assert self._loop is not None
        head = self._over_chunks()
        if not any("col" in line for line in (*self._loop, self._guarded, after)):
            head = head[:-1]
        self.lines += [*head, self._guarded]
        if self._pack:
            self.lines.append(self._pack)
        self.lines += ["    #pragma unroll", f"    for (int k = 0; k < {self.s.vector}; ++k) {{"]
        self.lines += [f"      {line}" for line in self._loop]
        self.lines.append("    }")
        if after:
            self.lines.append(f"    {after}")
        self.lines += ["  }", "}"]
        self._loop, self._inside = None, {}

    def _array(self, name: str, dtype: str) -> None:
        self.lines.append(f"{VALUE_TYPES[dtype]} {name}[{self.s.chunks}][{self.s.vector}];")

    # --- values ---------------------------------------------------------------------------------------------

    def _name(self, stem: str) -> str:
        taken = self.names.values()
        while (name := f"{stem}{self._count}") in taken or name in self._used:
            self._count += 1
        self._used.add(name)
        return name

    def _columns(self, e: Expr) -> bool:
        """Whether ``e`` differs from column to column."""
        for x in walk(e):
            if isinstance(x, Index) and x.axis == self.column.name:
                return True
            if isinstance(x, Var) and self.column.name in self._spans[x.name]:
                return True
        return False

    def _value(self, e: Expr) -> str:
        """The name or literal of ``e``: of the column at hand, or of the whole row."""
        if isinstance(e, Const):
            return constant_text(e.value, e.dtype)
        if isinstance(e, Index):
            if e.axis != self.column.name:
                return self._axis(e.axis)
            return "static_cast<long long>(col + k)"
        if e in self._arrays:
            return f"{self._arrays[e]}[i][k]"
        if isinstance(e, Var) and e.name in self._lets and e not in self._once:
            return self._value(self._lets[e.name].value)
        columns = self._columns(e)
        known = self._inside if columns else self._once
        if e in known:
            return known[e]
        if isinstance(e, Load) and columns and (made := self._loaded(e)):
            return made
        if isinstance(e, Load):
            buffer = self.buffers[e.buffer]
            text = f"get({self.names[e.buffer]} + {self._address(e, buffer, loop=columns)})"
        elif isinstance(e, Op):
            arguments = [self._value(a) for a in e.args]
            text = operator_text(e, arguments, self.need, once=not columns)
            if text in arguments:  # a conversion between types that are one in registers
                known[e] = text
                return text
        else:
            raise UnsupportedError(f"the CUDA row kernel has no {type(e).__name__}", where=self.nest.name)
        name = self._name("t")
        line = f"const {VALUE_TYPES[e.dtype]} {name} = {text};"
        if columns:
            self._emit(line)
        else:
            self.lines.append(line)
        known[e] = name
        return name

    def _loaded(self, e: Load) -> str:
        """A load of every column into registers, before the loop at hand; "" where its place in memory is not
        known before."""
        buffer = self.buffers[e.buffer]
        if e.buffer in self.nest.writes() or address(e, buffer) is None:
            return ""
        name = self._name("x")
        self._array(name, e.dtype)
        source = self.names[e.buffer]
        own = [*self._head_of_load()]
        if self._vectorised(e, buffer):
            own.append(f"    get_all<{self.s.vector}>({source} + {self._base(e, buffer)} + col, {name}[i]);")
        else:
            at = self._address(e, buffer, loop=True)
            own += [
                "    #pragma unroll",
                f"    for (int k = 0; k < {self.s.vector}; ++k) {name}[i][k] = get({source} + {at});",
            ]
        self.lines += [*own, "  }", "}"]
        self._arrays[e] = name
        return f"{name}[i][k]"

    def _head_of_load(self) -> list[str]:
        return [*self._over_chunks(), "  {" if self._full() else f"  if (col < {self.column.extent}) {{"]

    def _over_chunks(self) -> list[str]:
        head = ["#pragma unroll", f"for (int i = 0; i < {self.s.chunks}; ++i) {{"]
        return [*head, f"  const int col = first + i * {self.s.lanes * self.s.vector};"]

    # --- addresses ------------------------------------------------------------------------------------------

    def _vectorised(self, access: Load | Store, buffer: Buffer) -> bool:
        """Whether neighbouring columns are neighbours in memory, aligned to an access."""
        form = address(access, buffer)
        if form is None or self.s.vector == 1:
            return False
        constant, terms = form
        rest = [c for axis, c in terms.items() if axis != self.column.name]
        return terms.get(self.column.name) == 1 and not any(c % self.s.vector for c in (constant, *rest))

    def _base(self, access: Load | Store, buffer: Buffer) -> str:
        """The address in elements without its columns, which have step 1."""
        form = address(access, buffer)
        assert form is not None
        return self._sum(form[0], {a: c for a, c in form[1].items() if a != self.column.name})

    def _sum(self, constant: int, terms: Mapping[str, int], column: str = "") -> str:
        parts = [f"{self._axis(a)} * {c}LL" if c != 1 else self._axis(a) for a, c in terms.items()]
        parts += [column] if column else []
        parts += [f"{constant}LL"] if constant or not parts else []
        return f"({' + '.join(parts)})" if len(parts) > 1 else parts[0]

    def _address(self, access: Load | Store, buffer: Buffer, loop: bool = False) -> str:
        """The address in elements; in a loop over columns, of the one at hand."""
        form = address(access, buffer)
        if form is None:
            pairs = zip(access.index, buffer.stride, strict=True)
            parts = [f"{self._value(i)} * {step}LL" for i, step in pairs if step]
            return f"({' + '.join(parts) or '0'})"
        terms = dict(form[1])
        of_column = terms.pop(self.column.name, 0)
        column = f"(col + k) * {of_column}LL" if loop and of_column else ""
        return self._sum(form[0], terms, column)


def _identity(combiner: str, dtype: str) -> str:
    """What a combiner leaves as it is."""
    if combiner in ("any", "all"):
        return "true" if combiner == "all" else "false"
    if combiner in ("sum", "prod"):
        return constant_text(0 if combiner == "sum" else 1, dtype)
    if dtype in FLOATS:
        return constant_text(float("-inf") if combiner == "max" else float("inf"), dtype)
    bits: Mapping[str, Any] = {"int64": 63, "int32": 31, "int16": 15, "int8": 7}
    if dtype == "bool" or dtype == "uint8":
        top = "true" if dtype == "bool" else "255"
        return "0" if combiner == "max" else top
    high = (1 << bits[dtype]) - 1
    return (
        f"(-{high}{'LL' if dtype == 'int64' else ''} - 1)"
        if combiner == "max"
        else constant_text(high, dtype)
    )
