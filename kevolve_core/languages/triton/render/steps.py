"""What is printed for a step: a library call, a kernel, or the kernels that stand for a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Attention, Axis, Buffer, LibraryCall, LoopNest, Program, Step, walk
from kevolve_core.languages.triton.render.attention import attention_schedule, print_attention
from kevolve_core.languages.triton.render.contraction import (
    Contraction,
    contraction_of,
    fused_nest,
    partial_nest,
    plain_nest,
)
from kevolve_core.languages.triton.render.helpers import HELPERS
from kevolve_core.languages.triton.render.nest import Kernel, print_nest, without_first
from kevolve_core.languages.triton.render.product import (
    ProductSchedule,
    print_product,
    product_schedule,
    split_steps,
)
from kevolve_core.languages.triton.render.schedule import resolve
from kevolve_core.languages.triton.render.tiling import expressions, tiling_of
from kevolve_core.languages.triton.render.words import TRITON_TYPES
from kevolve_core.languages.triton.spaces import default_schedule
from kevolve_core.languages.windows import unrolled

__all__ = ["Printed", "check_dtypes", "chosen"]


@frozen
class Printed:
    """One thing to launch: a library ``call``, or the kernel of ``nest``, after ``product`` or ``attention``
    where it has one. A repeated call has both, and they take turns.

    ``buffers`` are temporary ones it needs beside the program's.
    """

    name: str
    call: LibraryCall | None = None
    nest: LoopNest | None = None
    product: Contraction | None = None
    schedule: ProductSchedule | None = None
    covers: tuple[str, ...] = ()
    point: Mapping[str, Any] = field(factory=dict)
    buffers: tuple[Buffer, ...] = ()
    attention: Attention | None = None

    def kernel(
        self,
        buffers: Mapping[str, Buffer],
        names: Mapping[str, str],
        function: str,
        offsets: Sequence[tuple[str, Axis]] = (),
    ) -> Kernel:
        """The kernel, named ``function``; ``offsets`` are indices that each launch is told
        (`kevolve_core.languages.triton.render.nest.print_nest`)."""
        assert self.nest is not None
        check_dtypes(self.nest, buffers)
        taken = [*HELPERS, function]
        if self.attention is not None:
            blocks = attention_schedule(self.attention, self.point)
            return print_attention(self.attention, buffers, names, blocks, function, taken)
        if self.product is not None and self.schedule is not None:
            return print_product(
                self.product, self.nest, self.covers, buffers, names, self.schedule, function, taken, offsets
            )
        repeated = self.call is not None and self.call.repeat > 0
        shape = without_first(self.nest) if repeated else unrolled(self.nest)
        schedule = resolve(tiling_of(shape), self.point, default_schedule(shape))
        return print_nest(self.nest, buffers, names, schedule, function, taken, repeated, offsets)


def chosen(step: Step, program: Program, point: Mapping[str, Any]) -> list[Printed]:
    """What ``point`` makes of ``step``."""
    if isinstance(step, LoopNest):
        return [Printed(step.name, nest=step, point=point)]
    if isinstance(step, Attention):
        return [Printed(step.name, nest=step.result, point=point, attention=step)]
    found = contraction_of(step, program.buffers) if point.get("implementation") == "generated" else None
    if found is not None:
        return _generated(step, found, program, point)
    if step.repeat:
        return [Printed(step.name, call=step, nest=step.epilogue, point=point)]
    steps = [Printed(step.name, call=evolve(step, epilogue=None))]
    if step.epilogue is not None:
        steps.append(Printed(step.epilogue.name, nest=step.epilogue, point=point))
    return steps


def _generated(
    call: LibraryCall, c: Contraction, program: Program, point: Mapping[str, Any]
) -> list[Printed]:
    schedule = product_schedule(c, point)
    fused = None if call.epilogue is None else fused_nest(c, call.epilogue, program)
    plain = plain_nest(c, call.name, program.buffers[c.output])
    rest: list[Printed] = []
    if call.epilogue is not None and fused is None:
        rest = [Printed(call.epilogue.name, nest=call.epilogue, point=point)]
    if schedule.split == 1:
        nest = fused or plain
        return [Printed(call.name, nest=nest, product=c, schedule=schedule, covers=call.covers), *rest]
    partial, total = split_steps(call, c, schedule.split, program)
    store = partial_nest(c, call.name, partial)
    first = Printed(
        call.name, nest=store, product=c, schedule=schedule, covers=call.covers, buffers=(partial,)
    )
    # The sum's loops are not those that the step's own schedule was made for.
    return [first, Printed(total.name, nest=total), *rest]


def check_dtypes(nest: LoopNest, buffers: Mapping[str, Buffer]) -> None:
    """Raise UnsupportedError for a type that Triton has not."""
    found = {buffers[b].dtype for b in (*nest.reads(), *nest.writes())}
    found |= {e.dtype for s in nest.body for root in expressions(s) for e in walk(root)}
    for dtype in sorted(found - set(TRITON_TYPES)):
        raise UnsupportedError(f"Triton renderer has no dtype {dtype}", where=f"nest {nest.name}")
