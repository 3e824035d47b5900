"""The walks of a program over its columns: what runs in a loop, what is carried, what follows it."""

from __future__ import annotations

from attrs import define, evolve, field

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Axis, Expr, Index, Reduce, Scan, Statement, Store, Var, vars_of
from kevolve_core.languages.rounding import few_results, in_float64
from kevolve_core.languages.triton.render.combine import Combiner, combiner_of, extreme, result_cast
from kevolve_core.languages.triton.render.printer import Frame, Printer
from kevolve_core.languages.triton.render.schedule import NestSchedule
from kevolve_core.languages.triton.render.scope import Scope, Text
from kevolve_core.languages.triton.render.tiling import (
    HELD_TILES,
    Pass,
    divisible,
    drift_pairs,
    expressions,
    holdable,
    moment_pairs,
    online_pairs,
    passes_of,
    uses,
)
from kevolve_core.languages.triton.render.words import TRITON_TYPES

__all__ = ["Walks"]

_FAR = "2147483647"


@define
class Walks:
    """Prints every pass of a nest into ``body``."""

    printer: Printer
    schedule: NestSchedule
    body: Scope
    online: dict[str, str] = field(factory=dict)
    moments: dict[str, tuple[str, str]] = field(factory=dict)
    drifts: dict[str, str] = field(factory=dict)
    scans: dict[str, Scan] = field(factory=dict)
    chunks: dict[int, tuple[Scope, Frame]] = field(factory=dict)
    holds: bool = False

    def run(self) -> None:
        nest, tiling = self.printer.nest, self.printer.tiling
        self.scans = {s.name: s for s in nest.body if isinstance(s, Scan)}
        looped = tiling.combines and tiling.col_count > self.schedule.cols
        few = tiling.col_count <= HELD_TILES * self.schedule.cols
        self.holds = looped and few and self.schedule.held and holdable(nest, tiling)
        if looped and self.schedule.online and not self.holds:
            self.online = dict(online_pairs(nest))
            self.moments = dict(moment_pairs(nest))
            self.drifts = dict(drift_pairs(nest))
        along = self.online | {name: total for name, (total, _) in self.moments.items()}
        along |= {name: along[squares] for name, squares in self.drifts.items()}
        passes = passes_of(nest, tiling, along)
        statements: dict[str, Statement] = {s.name: s for s in nest.body if not isinstance(s, Store)}
        for p in passes:
            roots = [e for s in p.sinks for e in expressions(s)]
            self.printer.counts = uses(roots, statements)
            if self.schedule.together > 1 and not tiling.combines:
                for root in roots:  # all loads before the first store, which they could not be moved above
                    self.printer.value(root, self.body)
            if not p.cols or not tiling.combines:
                for s in p.sinks:
                    self._single(s, self.body)
                continue
            self._walk(p)

    # --- one walk -------------------------------------------------------------------------------------------

    def _walk(self, p: Pass) -> None:
        pr, s = self.printer, self.schedule
        cols = tuple(a for a in pr.tiling.cols if a.name in p.cols)
        count = 1
        for a in cols:
            count *= a.extent
        lanes = "tl.arange(0, COLS)" + ("[None, :]" if pr.rank == 2 else "")
        needed = self._needed_scans(p)
        if any(self.scans[n].axis != a.name for n in needed for a in cols if a.extent > 1):
            raise UnsupportedError(
                "a running value is read in a walk over other columns than its own",
                where=f"nest {pr.nest.name}, {', '.join(needed)}",
            )
        if count <= s.cols and count:
            self._frame_once(cols, count, lanes)
            for name in needed:
                self._scan_tile(self.scans[name], self.body, "")
            for x in p.sinks:
                self._single(x, self.body)
            return
        if self.holds and cols == pr.tiling.cols and count:
            self._walk_held(p, count, lanes)
            return
        reverse = bool(needed) and self.scans[needed[0]].reverse
        if any(self.scans[n].reverse != reverse for n in needed):
            raise UnsupportedError("scans of both directions in one walk", where=f"nest {pr.nest.name}")
        loop = Scope(self.body)
        col = pr.variables.fresh("col") if self.body.find("tile") else "col"
        mask = ""
        if reverse:
            loop.lines.append(f"{col} = {pr.long(f'{count - 1} - (start + {lanes})')}")
            if count % s.cols:
                mask = f"{col}_mask"
                loop.lines.append(f"{mask} = {col} >= 0")
        else:
            loop.lines.append(f"{col} = {pr.long(f'start + {lanes}')}")
            if not count or count % s.cols:
                mask = f"{col}_mask"
                loop.lines.append(f"{mask} = {col} < {count}")
        pr.frame = Frame(cols, col, mask) if reverse or not count else Frame(cols, col, mask, "start", s.cols)
        ends: list[tuple[Statement, str]] = []
        for name in needed:
            self._scan_tile(self.scans[name], loop, self._carry(self.scans[name]))
        for x in p.sinks:
            if isinstance(x, Reduce):
                ends.append((x, self._running(x, loop)))
            elif isinstance(x, Store):
                pr.store(x, loop)
        self.body.block(f"for start in range({self._share(p, count)}, COLS):", loop)
        for x, running in ends:
            assert isinstance(x, Reduce)
            self._finish(x, running)
        pr.frame = Frame()

    def _walk_held(self, p: Pass, count: int, lanes: str) -> None:
        """A walk without a loop, whose tiles stay where they are for the next one."""
        pr, s = self.printer, self.schedule
        sums: dict[str, tuple[Combiner, str]] = {}
        for k in range(-(-count // s.cols)):
            if k not in self.chunks:
                scope = Scope(self.body, self.body.lines)
                col = pr.variables.fresh("col")
                scope.lines.append(f"{col} = {pr.long(f'{k * s.cols} + {lanes}')}")
                mask = ""
                if (k + 1) * s.cols > count:
                    mask = f"{col}_mask"
                    scope.lines.append(f"{mask} = {col} < {count}")
                self.chunks[k] = scope, Frame(pr.tiling.cols, col, mask, str(k * s.cols), s.cols)
            scope, pr.frame = self.chunks[k]
            for x in p.sinks:
                if isinstance(x, Store):
                    pr.store(x, scope)
                    continue
                assert isinstance(x, Reduce)
                combiner = combiner_of(x.combiner, x.dtype, self._kind(x), pr.helper)
                value = self._value(x, combiner, scope)
                if x.name in sums:
                    running = sums[x.name][1]
                    scope.lines.append(f"{running} = {combiner.join(running, value)}")
                else:
                    text = Text(value, combiner.dtype, frozenset("RC"), True)
                    sums[x.name] = combiner, pr.named(scope, f"{x.name}_part", text).source
        for x in p.sinks:
            if isinstance(x, Reduce):
                combiner, running = sums[x.name]
                self._known(x, combiner.fold(running, self._axis), combiner.dtype)
        pr.frame = Frame()

    def _share(self, p: Pass, count: int) -> str:
        """The columns of a program: all, or its part where the walk only stores."""
        parts = self.schedule.spread
        if parts == 1 or not divisible(p, self.printer.nest):
            return f"0, {count}"
        length = -(-count // parts // self.schedule.cols) * self.schedule.cols
        length = max(length, self.schedule.cols)
        end = f"part * {length} + {length}"
        return f"part * {length}, {end if length * parts == count else f'min({end}, {count})'}"

    def _frame_once(self, cols: tuple[Axis, ...], count: int, lanes: str) -> None:
        """Columns that fit one tile; walks over the same columns share their variables."""
        pr = self.printer
        key = "tile:" + ",".join(a.name for a in cols)
        found = self.body.find(key)
        if found is None:
            first = self.body.find("tile") is None
            col = "col" if first else pr.variables.fresh("col")
            self.body.lines.append(f"{col} = {pr.long(lanes)}")
            mask = ""
            if count != self.schedule.cols:
                mask = f"{col}_mask"
                self.body.lines.append(f"{mask} = {col} < {count}")
            self.body.known["tile"] = self.body.known[key] = found = Text(col, mask)
        pr.frame = Frame(cols, found.source, found.dtype)

    def _needed_scans(self, p: Pass) -> list[str]:
        """Scans whose values the walk's statements use, in order."""
        pr = self.printer
        found: set[str] = set()
        stack: list[Expr] = [e for s in p.sinks for e in expressions(s)]
        while stack:
            for v in vars_of(stack.pop()):
                if v in self.scans and v not in found:
                    found.add(v)
                    stack.append(self.scans[v].value)
                elif v in pr.lets:
                    stack.append(pr.lets[v])
                elif v in pr.searches:
                    stack += expressions(pr.searches[v])
        return [n for n in self.scans if n in found]

    def _single(self, s: Statement, scope: Scope) -> None:
        """A statement of a tile that holds all columns."""
        if isinstance(s, Store):
            self.printer.store(s, scope)
        elif isinstance(s, Reduce):
            self._fold(s, scope)

    # --- reductions -----------------------------------------------------------------------------------------

    @property
    def _axis(self) -> str:
        return "1, keep_dims=True" if self.printer.rank == 2 else "0"

    @property
    def _tile(self) -> str:
        return "[ROWS, COLS]" if self.printer.rank == 2 else "[COLS]"

    def _kind(self, s: Reduce | Scan) -> str:
        if s.accumulate == "float32" and s.combiner in ("sum", "prod") and self.schedule.accumulate == "fp64":
            return "float64"
        return s.accumulate

    def _term(self, s: Reduce | Scan, combiner: Combiner) -> Expr:
        """What is combined, where few results are summed in float64 with its own sums and products so."""
        tiling = self.printer.tiling
        few = isinstance(s, Reduce) and few_results(tiling.col_count, tiling.row_count)
        widened = few and s.combiner == "sum" and (s.value.dtype, combiner.dtype) == ("float32", "float64")
        return in_float64(s.value) if widened else s.value

    def _value(self, s: Reduce | Scan, combiner: Combiner, scope: Scope) -> str:
        """The value of a tile, identities where there is none."""
        pr = self.printer
        text = pr.value(self._term(s, combiner), scope)
        source = text.source if not text.literal else self._cover(text.source, combiner.dtype)
        if not text.literal and combiner.dtype != (
            "float32" if text.dtype in ("float16", "bfloat16") else text.dtype
        ):
            source = f"{text.operand}.to({TRITON_TYPES[combiner.dtype]})"
        if pr.frame.col_mask:
            return f"tl.where({pr.frame.col_mask}, {source}, {combiner.identity})"
        if "C" not in text.dims and not text.literal:
            return f"tl.where({pr.frame.col} >= 0, {source}, {combiner.identity})"
        return source

    def _cover(self, literal: str, dtype: str) -> str:
        shape = "[1, COLS]" if self.printer.rank == 2 else "[COLS]"
        return f"tl.full({shape}, {literal}, {TRITON_TYPES[dtype]})"

    def _known(self, s: Reduce, source: str, kind: str) -> None:
        """Name the reduction's result."""
        pr = self.printer
        cast = result_cast(s, kind)
        if cast:
            source = f"({source}){cast}" if cast.startswith(" ") else f"{source}{cast}"
        dims = frozenset("R") & pr.row_dims
        text = pr.named(self.body, s.name, Text(source, s.dtype, dims, True))
        self.body.known[Var(s.name, s.dtype)] = text

    def _fold(self, s: Reduce, scope: Scope) -> None:
        if s.combiner in ("argmax", "argmin"):
            self._fold_position(s, scope)
            return
        combiner = combiner_of(s.combiner, s.dtype, self._kind(s), self.printer.helper)
        value = self._value(s, combiner, scope)
        self._known(s, combiner.fold(value, self._axis), combiner.dtype)

    def _running(self, s: Reduce, loop: Scope) -> str:
        """Declare what a looped reduction carries and print its step; the carried variable."""
        pr = self.printer
        if s.combiner in ("argmax", "argmin"):
            return self._running_position(s, loop)
        if s.name in self.drifts:
            return ""  # known from the lanes' means
        combiner = combiner_of(s.combiner, s.dtype, self._kind(s), pr.helper)
        carried = pr.variables.fresh(f"{s.name}_part")
        kind = TRITON_TYPES[combiner.dtype]
        if s.name in self.online:
            return self._running_exponentials(s, loop, carried)
        if s.name in self.moments:
            return self._running_moments(s, combiner, loop, carried)
        self.body.lines.append(f"{carried} = tl.full({self._tile}, {combiner.identity}, {kind})")
        value = self._value(s, combiner, loop)
        if s.name in self.online.values():
            step = pr.variables.fresh(f"{s.name}_next")
            held = pr.named(loop, f"{s.name}_value", Text(value, s.dtype, frozenset("RC"), True))
            loop.lines.append(f"{step} = {combiner.join(carried, held.source)}")
            loop.known[f"online:{s.name}"] = Text(carried, held.source, frozenset(), True)
            loop.known[f"next:{s.name}"] = Text(step, "")
            self.body.known[f"carried:{s.name}"] = Text(carried, "")
            if not any(m == s.name for m in self.online.values()):
                loop.lines.append(f"{carried} = {step}")
        else:
            loop.lines.append(f"{carried} = {combiner.join(carried, value)}")
        return carried

    def _running_exponentials(self, s: Reduce, loop: Scope, carried: str) -> str:
        """A sum of exponentials below a maximum that is still growing. Lanes that have met only -inf compare
        equal, so that no difference of infinities is taken."""
        m = self.online[s.name]
        online, step = loop.find(f"online:{m}"), loop.find(f"next:{m}")
        assert online is not None
        assert step is not None
        old, value, new = online.source, online.dtype, step.source
        self.body.lines.append(f"{carried} = tl.zeros({self._tile}, tl.float32)")
        loop.lines.append(f"{carried} *= tl.exp(tl.where({old} == {new}, 0.0, {old} - {new}))")
        loop.lines.append(f"{carried} += tl.exp(tl.where({value} == {new}, 0.0, {value} - {new}))")
        loop.lines.append(f"{old} = {new}")
        return carried

    def _running_moments(self, s: Reduce, combiner: Combiner, loop: Scope, carried: str) -> str:
        """Welford's update in every lane: the mean so far, and the squares about it."""
        pr = self.printer
        total = next(x for x in pr.nest.body if isinstance(x, Reduce) and x.name == self.moments[s.name][0])
        kind = TRITON_TYPES[combiner.dtype]
        mean = pr.variables.fresh(f"{s.name}_mean")
        self.body.lines.append(f"{carried} = tl.zeros({self._tile}, {kind})")
        self.body.lines.append(f"{mean} = tl.zeros({self._tile}, {kind})")
        self.body.known[f"moments:{s.name}"] = Text(mean, kind)
        text = pr.value(total.value, loop)
        source = text.operand if text.dtype == combiner.dtype else f"{text.operand}.to({kind})"
        value = pr.named(loop, f"{s.name}_value", Text(source, combiner.dtype, frozenset("RC"), True))
        off = pr.named(loop, f"{s.name}_off", Text(f"{value.source} - {mean}", combiner.dtype))
        share = pr.named(loop, "share", Text("1.0 / (start // COLS + 1)", "float32"))
        step, square = f"{off.source} * {share.source}", f"{off.source} * ({value.source} - {mean})"
        if mask := pr.frame.col_mask:
            step, square = f"tl.where({mask}, {step}, 0.0)", f"tl.where({mask}, {square}, 0.0)"
        loop.lines += [f"{mean} += {step}", f"{carried} += {square}"]
        return carried

    def _lane_means(self, s: Reduce) -> tuple[str, str, str]:
        """Of Welford's lanes: how far each one's mean is off that of all, its count, and their dtype."""
        pr = self.printer
        lanes = self.body.find(f"moments:{s.name}")
        assert lanes is not None
        kind = "float64" if lanes.dtype == "tl.float64" else "float32"
        done = self.body.find(f"lanes:{s.name}")
        if done is not None:
            return done.source, done.dtype, kind
        mean = pr.value(Var(self.moments[s.name][1], "float32"), self.body)
        count = 1
        for a in s.axes:
            count *= pr.extents[a]
        at = "tl.arange(0, COLS)" + ("[None, :]" if pr.rank == 2 else "")
        off = pr.named(self.body, f"{s.name}_off", Text(f"{lanes.source} - {mean.source}", "float32"))
        held = pr.named(self.body, f"{s.name}_count", Text(f"({count - 1} - {at}) // COLS + 1", "int32"))
        self.body.known[f"lanes:{s.name}"] = Text(off.source, held.source)
        return off.source, held.source, kind

    def _finish_moments(self, s: Reduce, carried: str) -> None:
        """Squares about the mean of all, from those about each lane's own (Chan, Golub and LeVeque)."""
        off, held, kind = self._lane_means(s)
        self._known(s, f"tl.sum({carried} + {held} * ({off} * {off}), {self._axis})", kind)

    def _finish_drift(self, s: Reduce) -> None:
        """Deviations of all from the mean as it was rounded."""
        squares = next(
            x for x in self.printer.nest.body if isinstance(x, Reduce) and x.name == self.drifts[s.name]
        )
        off, held, kind = self._lane_means(squares)
        self._known(s, f"tl.sum({held} * {off}, {self._axis})", kind)

    def _finish(self, s: Reduce, carried: str) -> None:
        pr = self.printer
        if s.combiner in ("argmax", "argmin"):
            self._position(s, carried, f"{carried}_at")
            return
        if s.name in self.moments:
            self._finish_moments(s, carried)
            return
        if s.name in self.drifts:
            self._finish_drift(s)
            return
        combiner = combiner_of(s.combiner, s.dtype, self._kind(s), pr.helper)
        if s.name in self.online:
            m = self.online[s.name]
            lanes, largest = self.body.find(f"carried:{m}"), self.body.find(Var(m, "float32"))
            assert lanes is not None
            assert largest is not None
            value = f"{carried} * tl.exp({lanes.source} - {largest.source})"
            self._known(s, f"tl.sum({value}, {self._axis})", "float32")
            return
        self._known(s, combiner.fold(carried, self._axis), combiner.dtype)

    # --- positions of extrema -------------------------------------------------------------------------------

    def _extreme(self, s: Reduce) -> tuple[str, str, bool]:
        """(word, literal that loses to all, whether NaN can occur)."""
        word = "max" if s.combiner == "argmax" else "min"
        dtype = s.value.dtype
        kind = "float32" if dtype in ("float16", "bfloat16") else "int32" if dtype == "bool" else dtype
        return word, extreme(word, kind), kind.startswith("float")

    def _extreme_value(self, s: Reduce, scope: Scope) -> Text:
        pr = self.printer
        _, worst, _ = self._extreme(s)
        text = pr.value(s.value, scope)
        source = f"{text.operand}.to(tl.int32)" if text.dtype == "bool" else text.source
        if pr.frame.col_mask:
            source = f"tl.where({pr.frame.col_mask}, {source}, {worst})"
        return pr.named(scope, f"{s.name}_value", Text(source, text.dtype, text.dims, True))

    def _at(self, s: Reduce, scope: Scope) -> str:
        """The position along the flattened reduced axes."""
        pr = self.printer
        if tuple(a.name for a in pr.frame.cols) == tuple(s.axes):
            return pr.frame.col
        total: list[str] = []
        step = 1
        for name in reversed(s.axes):
            text = pr.index(Index(name), scope)
            if not text.literal:
                total.append(f"{text.operand} * {step}" if step > 1 else text.operand)
            step *= pr.extents[name]
        return " + ".join(reversed(total)) or "0"

    def _fold_position(self, s: Reduce, scope: Scope) -> None:
        held = self._extreme_value(s, scope)
        self._position(s, held.source, self._at(s, scope))

    def _running_position(self, s: Reduce, loop: Scope) -> str:
        pr = self.printer
        word, worst, real = self._extreme(s)
        dtype = s.value.dtype
        kind = "float32" if dtype in ("float16", "bfloat16") else "int32" if dtype == "bool" else dtype
        best = pr.variables.fresh(f"{s.name}_best")
        at = pr.variables.fresh(f"{best}_at")
        self.body.lines.append(f"{best} = tl.full({self._tile}, {worst}, {TRITON_TYPES[kind]})")
        lanes = "tl.arange(0, COLS)" + ("[None, :]" if pr.rank == 2 else "")
        spread = f"tl.zeros({self._tile}, tl.int32) + {lanes}"
        self.body.lines.append(f"{at} = {spread}")
        value = self._extreme_value(s, loop).source
        better = f"({value} {'>' if word == 'max' else '<'} {best})"
        if real:
            better = f"{better} | (({value} != {value}) & ({best} == {best}))"
        hit = pr.named(loop, "better", Text(better, "bool", frozenset("RC")))
        loop.lines.append(f"{best} = tl.where({hit.source}, {value}, {best})")
        loop.lines.append(f"{at} = tl.where({hit.source}, {self._at(s, loop)}, {at})")
        return best

    def _position(self, s: Reduce, value: str, at: str) -> None:
        """The smallest position among the extrema; NaN is one."""
        pr = self.printer
        word, _, real = self._extreme(s)
        fold = (
            f"{pr.helper(f'_{word}')}({value}, 1, True)"
            if pr.rank == 2
            else f"{pr.helper(f'_{word}')}({value}, 0, False)"
        )
        if not real:
            fold = f"tl.{word}({value}, {self._axis})"
        best = pr.named(self.body, f"{s.name}_{word}", Text(fold, "float32", pr.row_dims, True))
        hit = f"({value} == {best.source})" + (f" | ({value} != {value})" if real else "")
        if pr.frame.col_mask and not at.endswith("_at"):
            hit = f"({hit}) & {pr.frame.col_mask}"
        self._known(s, f"tl.min(tl.where({hit}, {at}, {_FAR}), {self._axis})", "int32")

    # --- scans ----------------------------------------------------------------------------------------------

    def _carry(self, s: Scan) -> str:
        pr = self.printer
        combiner = combiner_of(s.combiner, s.dtype, self._kind(s), pr.helper)
        carry = pr.variables.fresh(f"{s.name}_carry")
        shape = "[ROWS, 1]" if pr.rank == 2 else "[]"
        self.body.lines.append(
            f"{carry} = tl.full({shape}, {combiner.identity}, {TRITON_TYPES[combiner.dtype]})"
        )
        return carry

    def _scan_tile(self, s: Scan, scope: Scope, carry: str) -> None:
        """The scan of one tile, after what is carried. A tile of a reversed loop already runs backwards; one
        that holds everything is scanned from its end."""
        pr = self.printer
        if scope.find(Var(s.name, s.dtype)) is not None:
            return
        combiner = combiner_of(s.combiner, s.dtype, self._kind(s), pr.helper)
        axis = 1 if pr.rank == 2 else 0
        value = pr.named(
            scope,
            f"{s.name}_value",
            Text(self._value(s, combiner, scope), combiner.dtype, frozenset("RC"), True),
        )
        backwards = s.reverse and not carry
        scanned = combiner.scan(value.source, axis)
        if backwards:
            scanned = f"{scanned[:-1]}, reverse=True)"
        running = pr.named(scope, s.name, Text(scanned, combiner.dtype, frozenset("RC"), True))
        if carry:
            joined = combiner.join(carry, running.source)
            running = pr.named(scope, s.name, Text(joined, combiner.dtype, frozenset("RC"), True))
            total = combiner.fold(value.source, self._axis)
            after = f"{carry} = {combiner.join(carry, total)}"
        result = running
        if s.exclusive:
            if s.combiner != "sum":
                raise UnsupportedError(
                    "an exclusive scan other than a sum", where=f"nest {pr.nest.name}, {s.name}"
                )
            result = evolve(running, source=f"{running.source} - {value.source}", atom=False)
        cast = result_cast(Reduce(s.name, s.combiner, s.value, (), s.dtype, s.accumulate), combiner.dtype)
        source = f"({result.source}){cast}" if cast and not result.atom else f"{result.source}{cast}"
        dims = pr.row_dims | frozenset("C")
        scope.known[Var(s.name, s.dtype)] = pr.named(scope, s.name, Text(source, s.dtype, dims, True))
        if carry:
            scope.lines.append(after)
