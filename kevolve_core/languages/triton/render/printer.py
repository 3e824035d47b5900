"""Prints expressions of one kernel: tile addresses, masked loads, and values named once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from attrs import define, evolve, field

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
    Search,
    Store,
    Var,
)
from kevolve_core.languages.triton.render.operators import operator_text
from kevolve_core.languages.triton.render.ranges import INT32, bounds, fits
from kevolve_core.languages.triton.render.scope import Scope, Text
from kevolve_core.languages.triton.render.tiling import Tiling
from kevolve_core.languages.triton.render.words import TRITON_TYPES, Names, constant

__all__ = ["Frame", "Printer"]

_CALL = re.compile(r"[\w.]+(\([^()]*\)(\[[^\]]*\])?)?")  # and what else binds as close as an attribute
_LONG = 64  # characters of an expression beyond which it gets a name of its own
_NONE: frozenset[str] = frozenset()


@define
class Frame:
    """What the indices are in one walk: the columns' axes, the variable that holds their flat position and
    the mask of positions that exist ("" where all do). Where the tile is ``step`` positions from ``start``, a
    multiple of ``step``, and one of them exists at least, both are given."""

    cols: tuple[Axis, ...] = ()
    col: str = "col"
    col_mask: str = ""
    start: str = ""
    step: int = 0


@define
class Printer:
    """Prints values of ``nest`` into scopes.

    ``row_dims`` are the tile dimensions that rows have: none where a program takes one row. ``row_mask`` is
    "" where every row exists. ``scalars`` are variables with axes whose position is one a program;
    ``row`` is the variable of the rows' position. Loads of buffers in ``held`` are values in registers.
    ``raw`` loads keep half precision.
    """

    nest: LoopNest
    tiling: Tiling
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    variables: Names
    row_dims: frozenset[str]
    row_mask: str
    rank: int
    helpers: dict[str, None] = field(factory=dict)
    lets: dict[str, Expr] = field(factory=dict)
    searches: dict[str, Search] = field(factory=dict)
    extents: dict[str, int] = field(factory=dict)
    counts: Mapping[Expr, int] = field(factory=dict)
    frame: Frame = field(factory=Frame)
    wide: bool = False
    spans: Mapping[str, frozenset[str]] = field(factory=dict)
    scalars: tuple[tuple[str, tuple[Axis, ...]], ...] = ()
    row: str = "row"
    held: Mapping[str, Text] = field(factory=dict)
    raw: bool = False

    def __attrs_post_init__(self) -> None:
        for s in self.nest.body:
            if isinstance(s, Let):
                self.lets[s.name] = s.value
            elif isinstance(s, Search):
                self.searches[s.name] = s
        self.extents = {a.name: a.extent for a in self.nest.axes}
        self.spans = self.nest.spans()
        self.wide = any(_extent(b) > INT32[1] for b in self._touched()) or self.tiling.row_count > INT32[1]

    def _touched(self) -> list[Buffer]:
        return [self.buffers[n] for n in (*self.nest.reads(), *self.nest.writes())]

    def helper(self, name: str) -> str:
        self.helpers[name] = None
        return name

    def long(self, source: str) -> str:
        """An index as wide as the addresses that are computed from it."""
        if not self.wide or source.isdigit():
            return source
        return f"{source if _CALL.fullmatch(source) else f'({source})'}.to(tl.int64)"

    @property
    def index_type(self) -> str:
        return "int64" if self.wide else "int32"

    # --- where a value belongs ------------------------------------------------------------------------------

    def spans_columns(self, e: Expr) -> bool:
        axes = self.nest.axes_under(e)
        return any(a.name in axes for a in self.frame.cols)

    def home(self, e: Expr, scope: Scope) -> Scope:
        """The outermost scope in which ``e`` has one value."""
        return scope if self.spans_columns(e) else scope.root

    def named(self, scope: Scope, hint: str, text: Text) -> Text:
        """``text`` held by a variable."""
        name = self.variables.fresh(hint)
        scope.lines.append(f"{name} = {text.source}")
        return evolve(text, source=name, atom=True, literal=False)

    # --- values ---------------------------------------------------------------------------------------------

    def value(self, e: Expr, scope: Scope) -> Text:
        """``e`` printed, its parts named in the scopes they belong to."""
        if isinstance(e, Const):
            source = constant(e.value, e.dtype)
            return Text(source, e.dtype, atom=not source.startswith("-"), literal=True)
        if (found := scope.find(e)) is not None:
            return found
        home = self.home(e, scope)
        if isinstance(e, Index):
            return self.index(e, home)
        if isinstance(e, Var):
            text = self._variable(e, home)
        elif isinstance(e, Load) and e.buffer in self.held:
            return self.held[e.buffer]
        elif isinstance(e, Load):
            text = self.named(home, f"{self.names[e.buffer]}_value", self._load(e, home))
        else:
            text = self._operator(e, home)
            if not text.literal and (self.counts.get(e, 0) > 1 or len(text.source) > _LONG):
                text = self.named(home, "t", text)
            else:
                return text
        home.known[e] = text
        return text

    def _variable(self, e: Var, scope: Scope) -> Text:
        if e.name in self.lets:
            text = self.value(self.lets[e.name], scope)
            if text.literal or (text.atom and text.source.isidentifier()):
                return text
            return self.named(self.home(e, scope), e.name, text)
        if e.name in self.searches:
            return self._search(self.searches[e.name], scope)
        raise UnsupportedError("a value is read before it is computed", where=f"{self.nest.name}, {e.name}")

    def _operator(self, e: Op, scope: Scope) -> Text:
        args = [self.value(a, scope) for a in e.args]
        dims = frozenset[str]().union(*(a.dims for a in args))
        dtype = e.dtype
        if dtype == "int64":
            narrow = all(a.dtype != "int64" or a.literal for a in args[-2:])
            known = bounds(e, self.extents, self.lets)
            if e.name == "cast" and narrow and fits(known):
                return Text(args[0].source, "int32", dims, args[0].atom)
            if narrow and fits(known) and e.name != "cast":
                dtype = "int32"
                below = bounds(e.args[0], self.extents, self.lets)
                if e.name in ("floordiv", "remainder") and below is not None and below[0] >= 0:
                    sign = "//" if e.name == "floordiv" else "%"
                    return Text(f"{args[0].operand} {sign} {args[1].operand}", dtype, dims)
            elif narrow and e.name not in ("cast", "where"):
                args = [self._widened(a) for a in args]
        source, atom = operator_text(e, args, self.helper)
        return Text(source, dtype, dims, atom)

    def _widened(self, a: Text) -> Text:
        if a.literal or a.dtype != "int32":
            return a
        return evolve(a, source=f"{a.operand}.to(tl.int64)", dtype="int64", atom=True)

    # --- indices --------------------------------------------------------------------------------------------

    def index(self, e: Index, scope: Scope) -> Text:
        """The value of one loop index."""
        for group, axes in self._groups():
            names = [a.name for a in axes]
            if e.axis in names:
                k = names.index(e.axis)
                return self._run(group, axes, k, k, scope)
        raise UnsupportedError("an index outside its loop", where=f"nest {self.nest.name}, {e.axis}")

    def _groups(self) -> tuple[tuple[str, tuple[Axis, ...]], ...]:
        return (*self.scalars, ("R", self.tiling.rows), ("C", self.frame.cols))

    def _run(self, group: str, axes: Sequence[Axis], first: int, last: int, scope: Scope) -> Text:
        """The flat position along axes ``first`` to ``last`` of a group."""
        own = math.prod(a.extent for a in axes[first : last + 1])
        if own <= 1:
            return Text("0", "int32", atom=True, literal=True)
        dims = {"R": self.row_dims, "C": frozenset("C") if self.rank else _NONE}.get(group, _NONE)
        variable = {"R": self.row, "C": self.frame.col}.get(group, group)
        if all(a.extent == 1 for a in (*axes[:first], *axes[last + 1 :])):
            return Text(variable, self.index_type, dims, True)
        key = f"{variable}:{first}:{last}"
        if (found := scope.find(key)) is not None:
            return found
        below = math.prod(a.extent for a in axes[last + 1 :])
        if group == "C" and self.frame.step and below % self.frame.step == 0 and not self.wide:
            variable, dims = self.frame.start, _NONE  # one value a tile
        source = variable if below == 1 else f"{variable} // {below}"
        if math.prod(a.extent for a in axes[:first]) > 1:
            source = f"({source}) % {own}" if below > 1 else f"{source} % {own}"
        home = scope if group == "C" else scope.root
        text = self.named(home, "_".join(a.name for a in axes[first : last + 1]),
                          Text(source, self.index_type, dims))  # fmt: skip
        home.known[key] = text
        return text

    def address(self, access: Load | Store, scope: Scope) -> Text:
        """The element offset of an access, as a sum of few terms."""
        from kevolve_core.synth.index import linear

        buffer = self.buffers[access.buffer]
        constant_part, terms = 0, dict[Expr, int]()
        for e, stride in zip(access.index, buffer.stride, strict=True):
            if not stride:
                continue
            c, found = linear(e)
            constant_part += c * stride
            for atom, k in found.items():
                terms[atom] = terms.get(atom, 0) + k * stride
        parts: list[Text] = []
        rest = {a: k for a, k in terms.items() if not isinstance(a, Index)}
        for group, axes in self._groups():
            parts += self._group_terms(group, axes, terms, scope)
        for atom, k in rest.items():
            text = self.value(atom, scope)
            if text.dtype != "int64" and _extent(buffer) > INT32[1]:
                text = evolve(text, source=f"{text.operand}.to(tl.int64)", dtype="int64", atom=True)
            parts.append(_scaled(text, k))
        parts.sort(key=lambda p: "C" in p.dims)  # what a program adds once comes first
        dims = frozenset[str]().union(*(p.dims for p in parts))
        source = " + ".join(p.source for p in parts)
        if constant_part or not parts:
            source = (
                f"{source} {'+' if constant_part >= 0 else '-'} {abs(constant_part)}"
                if parts
                else str(constant_part)
            )
        return Text(source, "int64", dims)

    def _group_terms(
        self, group: str, axes: Sequence[Axis], terms: Mapping[Expr, int], scope: Scope
    ) -> list[Text]:
        """Terms of one group's indices, runs of axes that are walked as one printed as one."""
        found: list[Text] = []
        last = len(axes) - 1
        while last >= 0:
            k = terms.get(Index(axes[last].name), 0)
            if axes[last].extent == 1 or not k:
                last -= 1
                continue
            first, step = last, k * axes[last].extent
            while first > 0 and (
                axes[first - 1].extent == 1 or terms.get(Index(axes[first - 1].name), 0) == step
            ):
                first -= 1
                step *= axes[first].extent
            while axes[first].extent == 1:
                first += 1
            found.append(_scaled(self._run(group, axes, first, last, scope), k))
            last = first - 1
        return list(reversed(found))

    # --- memory ---------------------------------------------------------------------------------------------

    def masks(self, dims_needed: Expr | Sequence[Expr]) -> list[Text]:
        """The tile's own masks for what ``dims_needed`` span."""
        needed = (
            [dims_needed] if isinstance(dims_needed, (Const, Index, Var, Load, Op)) else list(dims_needed)
        )
        found: list[Text] = []
        if self.row_mask and any(self._spans_rows(e) for e in needed):
            found.append(Text(self.row_mask, "bool", self.row_dims, True))
        if self.frame.col_mask and any(self.spans_columns(e) for e in needed):
            found.append(Text(self.frame.col_mask, "bool", frozenset("C"), True))
        return found

    def _spans_rows(self, e: Expr) -> bool:
        axes = self.nest.axes_under(e)
        return any(a.name in axes for a in self.tiling.rows)

    def _load(self, e: Load, scope: Scope) -> Text:
        buffer = self.buffers[e.buffer]
        at = self.address(e, scope)
        masks = self.masks(e)
        if self.frame.step and "C" not in at.dims:
            masks = [m for m in masks if m.source != self.frame.col_mask]
        other, chosen = "", None
        if e.mask is not None:
            mask = self.value(e.mask, scope)
            if mask.literal:
                if mask.source == "False":
                    assert e.other is not None
                    return self.value(e.other, scope)
            else:
                masks.append(mask)
                chosen = self.value(e.other, scope) if e.other is not None else None
        if masks:
            literal = chosen is not None and chosen.literal and e.dtype != "bool"
            other = f", other={chosen.source if literal and chosen else self._zero(e.dtype)}"
            if literal:
                chosen = None
        at, dims = self._covering(at, masks)
        mask_text = f", mask={_all(masks)}" if masks else ""
        source = f"tl.load({self.names[e.buffer]} + {at.source}{mask_text}{other})"
        if buffer.dtype in ("float16", "bfloat16") and not self.raw:
            source += ".to(tl.float32)"
        if chosen is not None:
            source = f"tl.where({masks[-1].source}, {source}, {chosen.source})"
            dims |= chosen.dims
        return Text(source, e.dtype, dims, True)

    @staticmethod
    def _zero(dtype: str) -> str:
        return "0.0" if dtype.startswith(("float", "bfloat")) else "0"

    def _covering(self, at: Text, others: Sequence[Text]) -> tuple[Text, frozenset[str]]:
        """The address with every dimension that masks or values have."""
        wanted = at.dims.union(*(m.dims for m in others))
        source = at.source
        if "R" in wanted - at.dims:
            source += f" + {self.row} * 0"
        if "C" in wanted - at.dims:
            source += f" + {self.frame.col} * 0"
        return evolve(at, source=source, dims=wanted), wanted

    def store(self, s: Store, scope: Scope) -> None:
        """Append the store's line."""
        value = self.value(s.value, scope)
        at = self.address(s, scope)
        masks = self.masks((*s.index, s.value, *(() if s.mask is None else (s.mask,))))
        if s.mask is not None:
            mask = self.value(s.mask, scope)
            if mask.literal and mask.source == "False":
                return
            masks += [] if mask.literal else [mask]
        at, dims = self._covering(at, [*masks, value])
        mask_text = f", mask={_all(masks)}" if masks else ""
        buffer = self.buffers[s.buffer]
        place = f"{self.names[s.buffer]} + {at.source}"
        if s.mode == "set":
            scope.lines.append(f"tl.store({place}, {value.source}{mask_text})")
            return
        if buffer.dtype not in (
            "float32",
            "float64",
            "int32",
            "int64",
            *(("float16",) if s.mode == "add" else ()),
        ):
            raise UnsupportedError(
                f"Triton has no atomic {s.mode} of {buffer.dtype}", where=f"nest {self.nest.name}, {s.buffer}"
            )
        kind = TRITON_TYPES[buffer.dtype]
        given = value.operand if not value.literal else f"tl.full({self.shape(dims)}, {value.source}, {kind})"
        if value.dims != dims:
            given = f"tl.broadcast_to({given}, {self.shape(dims)})"
        scope.lines.append(f'tl.atomic_{s.mode}({place}, {given}.to({kind}){mask_text}, sem="relaxed")')

    def shape(self, dims: frozenset[str]) -> str:
        """The shape of a value with ``dims``."""
        if self.rank == 2:
            return f"[{'ROWS' if 'R' in dims else 1}, {'COLS' if 'C' in dims else 1}]"
        return "[COLS]" if "C" in dims else "[]"

    def _search(self, s: Search, scope: Scope) -> Text:
        """Binary search, one halving of the row an iteration."""
        b = self.buffers[s.buffer]
        value = self.value(s.value, scope)
        if value.literal:
            value = Text(f"tl.full([], {value.source}, {TRITON_TYPES[b.dtype]})", value.dtype, atom=True)
        zero = Const(0, "int64")
        base = self.address(Load(s.buffer, (*s.index, zero), b.dtype), scope)
        dims = value.dims | base.dims
        held = value if value.source.isidentifier() else self.named(scope, f"{s.name}_key", value)
        low, high = self.variables.fresh(f"{s.name}"), self.variables.fresh(f"{s.name}_end")
        mid, found = self.variables.fresh("middle"), self.variables.fresh("right")
        n, step = b.shape[-1], b.stride[-1]
        scope.lines.append(f"{low} = {f'tl.zeros({self.shape(dims)}, tl.int32)' if dims else '0'}")
        scope.lines.append(f"{high} = {low} + {n}")
        body = Scope(scope)
        body.lines.append(f"{mid} = ({low} + {high}) // 2")
        at = f"{mid} * {step}" if step != 1 else mid
        place = f"{self.names[s.buffer]} + {at}" + ("" if base.source == "0" else f" + {base.source}")
        load = f"tl.load({place}, mask={low} < {high}, other=0)"
        load += ".to(tl.float32)" if b.dtype in ("float16", "bfloat16") else ""
        compare = f"({load} > {held.source}) == 0" if s.right else f"({load} >= {held.source}) == 0"
        body.lines.append(f"{found} = ({low} < {high}) & ({compare})")
        body.lines.append(f"{high} = tl.where({found}, {high}, {mid})")
        body.lines.append(f"{low} = tl.where({found}, {mid} + 1, {low})")
        scope.block(f"for _ in range({max(1, n.bit_length())}):", body)
        return Text(low, "int32", dims, True)


def _extent(b: Buffer) -> int:
    """Elements from the first to the last one."""
    return 1 + sum((n - 1) * abs(s) for n, s in zip(b.shape, b.stride, strict=True)) if b.size else 0


def _scaled(text: Text, by: int) -> Text:
    if text.literal:
        return evolve(text, source=str(int(text.source) * by))
    if by == 1:
        return evolve(text, source=text.operand, atom=True)
    return evolve(text, source=f"{text.operand} * {by}", atom=False)


def _all(masks: Sequence[Text]) -> str:
    return masks[0].source if len(masks) == 1 else " & ".join(m.operand for m in masks)
