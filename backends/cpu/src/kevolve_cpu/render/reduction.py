"""The accumulators of one reduction or scan: how they start, take a value, merge and give their result."""

from __future__ import annotations

from attrs import frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Expr, Reduce, Scan
from kevolve_core.languages.rounding import in_float64
from kevolve_cpu.render.kinds import BITS, KIND, SCALAR, highest, literal, lowest
from kevolve_cpu.render.operators import Lanes, Value

__all__ = ["Reduction"]

_FUNCTOR = {
    "sum": ("plus", "Plus"), "prod": ("times", "Times"), "max": ("larger", "Larger"),
    "min": ("smaller", "Smaller"), "any": ("or", "Or"), "all": ("and", "And"),
}  # fmt: skip


@frozen
class Reduction:
    """Accumulators of ``statement``.

    ``kind`` is what they hold: the accumulation dtype's kind (or a wider one that the caller asks
    for); any and all count in int32 0/1; argmax and argmin keep the value and, in a second
    accumulator, its position. With ``drops_nan`` a maximum may lose NaN, which takes one instruction and not
    four: for callers that find NaN otherwise. ``exact`` terms are computed in float64 as well.
    """

    statement: Reduce | Scan
    kind: str
    drops_nan: bool = False
    exact: bool = False

    @staticmethod
    def of(s: Reduce | Scan, value_kind: str, wide: bool = False, exact: bool = False) -> Reduction:
        """The reduction of ``s``, whose value has ``value_kind``; ``wide``: float32 sums in float64;
        ``exact``: what is summed in float64 is also multiplied and added so."""
        if s.combiner in ("any", "all"):
            return Reduction(s, "i32")
        if s.combiner in ("argmax", "argmin"):
            return Reduction(s, value_kind if value_kind in ("f32", "f64", "i64", "i32") else "i32")
        kind = KIND[s.accumulate]
        if kind == "b1":
            raise UnsupportedError(
                f"{s.combiner} accumulated in bool",
                where=f"value {s.name}",
                mend="accumulate in int64, or use any/all",
            )
        kind = "f64" if wide and kind == "f32" and s.combiner in ("sum", "prod") else kind
        return Reduction(s, kind, exact=exact and kind == "f64" and s.combiner == "sum")

    @property
    def term(self) -> Expr:
        """What is added at a point."""
        s = self.statement
        return in_float64(s.value) if self.exact and s.value.dtype == "float32" else s.value

    @property
    def positional(self) -> bool:
        return self.statement.combiner.startswith("arg")

    @property
    def identity(self) -> str:
        c = self.statement.combiner
        if c in ("sum", "any"):
            return literal(0, self.kind)
        if c in ("prod", "all"):
            return literal(1, self.kind)
        return lowest(self.kind) if c in ("max", "argmax") else highest(self.kind)

    def parts(self, lanes: Lanes, vec: bool) -> list[tuple[str, str, str]]:
        """(suffix, C++ type, start value) of each accumulator."""
        ctype = lanes.vector(self.kind) if vec else SCALAR[self.kind]
        start = self._splat(lanes, self.kind, self.identity) if vec else self.identity
        found = [("", ctype, start)]
        if self.positional:
            place = f"i{BITS[self.kind]}"
            at = lanes.vector(place) if vec else "long"
            found.append(("_at", at, f"{at}{{}}" if vec else "0"))
        return found

    @staticmethod
    def _splat(lanes: Lanes, kind: str, text: str) -> str:
        if text in ("0", "0.0", "0.0f", "0L"):
            return f"{lanes.vector(kind)}{{}}"
        return lanes.splat(Value(text, kind)).code

    def prepared(self, v: Value, lanes: Lanes) -> Value:
        """A value of the statement as the accumulators take it."""
        if self.statement.combiner in ("any", "all"):
            v = lanes.convert(v, "b1")
        return lanes.convert(v, self.kind)

    def take(self, accumulators: list[str], value: str, position: str, lanes: Lanes) -> str:
        """The statement that adds ``value`` (of the accumulators' type)."""
        c = self.statement.combiner
        a = accumulators[0]
        if c == "sum":
            return f"{a} += {value};"
        if c == "prod":
            return f"{a} *= {value};"
        if c in ("any", "all"):
            return f"{a} {'|' if c == 'any' else '&'}= {value};"
        if c in ("max", "min"):
            helper = "greater" if self.drops_nan and c == "max" else {"max": "maximum", "min": "minimum"}[c]
            return lanes.call(helper, f"{a} = {helper}({a}, {value});")
        helper = "first_max" if c == "argmax" else "first_min"
        return lanes.call(helper, f"{helper}({a}, {accumulators[1]}, {value}, {position});")

    def merge(self, into: list[str], other: list[str], lanes: Lanes) -> str:
        """The statement that adds another set of accumulators."""
        return self.take(into, other[0], other[1] if self.positional else "", lanes)

    def across(self, accumulators: list[str], name: str, lanes: Lanes, kind: str) -> list[str]:
        """Statements that combine all lanes into ``name`` (and ``name_at``), a scalar of ``kind``."""
        a = accumulators[0]
        if not self.positional:
            helper, functor = _FUNCTOR[self.statement.combiner]
            lanes.preamble.need("fold")
            lanes.preamble.need(helper)
            return [f"const {SCALAR[kind]} {name} = fold({a}, {functor}{{}});"]
        at = accumulators[1]
        helper = "first_max" if self.statement.combiner == "argmax" else "first_min"
        lanes.preamble.need(helper)
        return [
            f"{SCALAR[self.kind]} {name} = {a}[0];",
            f"long {name}_at = {at}[0];",
            f"for (int lane = 1; lane < {lanes.width}; ++lane)",
            f"    {helper}<{SCALAR[self.kind]}, long>({name}, {name}_at, {a}[lane], {at}[lane]);",
        ]

    def result(self, accumulators: list[str], vec: bool, lanes: Lanes) -> Value:
        """The reduction's value."""
        kind = KIND[self.statement.dtype]
        if self.positional:
            place = f"i{BITS[self.kind]}" if vec else "i64"
            return lanes.convert(Value(accumulators[1], place, vec), kind)
        return lanes.convert(Value(accumulators[0], self.kind, vec), kind)
