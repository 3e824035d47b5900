"""`CuteRenderer`: matrix products and convolutions with their epilogues in CuTe DSL, all around them in
Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Attention, Buffer, LibraryCall, Operand, Program, Step
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.languages.triton import TritonRenderer
from kevolve_core.languages.triton.render.contraction import (
    Contraction,
    contraction_of,
    fused_nest,
    plain_nest,
)
from kevolve_core.languages.triton.render.renderer import Foreign
from kevolve_core.languages.triton.render.steps import Printed
from kevolve_core.model import Candidate, Device
from kevolve_core.space import Point, Space
from kevolve_nvidia.cutedsl.carried import carried, imports
from kevolve_nvidia.cutedsl.convolution_renderer import fitting_convolution, printed_convolution
from kevolve_nvidia.cutedsl.convolution_schedule import is_convolution
from kevolve_nvidia.cutedsl.epilogue import Epilogue, print_epilogue
from kevolve_nvidia.cutedsl.schedule import PAIRS, ProductSchedule, is_matrix_product, schedule_of
from kevolve_nvidia.launching import program_space

__all__ = ["CuteRenderer", "operand_parts"]

_MODULES = ("support", "product")
_ELEMENTS = {"float32": "BFloat16", "bfloat16": "BFloat16", "float16": "Float16"}
_ALIGNED = (
    8  # half-precision elements of 16 bytes: TMA's strides and addresses (CUDA driver API, tensor maps)
)
_LEAST = 16  # rows, columns and depth below which a tile is mostly empty; `estimated`
_INT32 = 1 << 31


def _dense(operand: Operand) -> bool:
    """Whether the operand covers its span of memory, in an order that TMA takes."""
    steps = sorted((s, n) for s, n in zip(operand.strides, operand.shape, strict=True) if n > 1)
    expected = 1
    for stride, n in steps:
        if stride != expected:
            return False
        expected *= n
    return 1 in operand.strides[-2:]


def operand_parts(dtype: str) -> int:
    """Half-precision tensors whose sum an operand of ``dtype`` is."""
    return 3 if dtype == "float32" else 1


def _fits(call: LibraryCall, buffers: Mapping[str, Buffer]) -> Contraction | None:
    """The call as a contraction that the kernel takes, or None."""
    if not is_matrix_product(call) or (c := contraction_of(call, buffers)) is None:
        return None
    batch, m, n, k = c.sizes
    for operand in call.operands:
        leading = [s for s in operand.strides[-2:] if s != 1]
        inner = operand.shape[-1 if operand.strides[-1] == 1 else -2]
        if not _dense(operand) or operand.offset % _ALIGNED or inner % _ALIGNED:
            return None
        if any(s % _ALIGNED for s in leading):
            return None
    if batch > 1 and any(o.strides[0] != o.shape[1] * o.shape[2] for o in call.operands):
        return None
    sizes = (batch * m * k, batch * k * n, batch * m * n)
    if min(m, n, k) < _LEAST or n % 2 or max(sizes) * operand_parts(c.left.dtype) >= _INT32:
        return None
    return c


@frozen
class CuteRenderer:
    """Prints `mm`, `bmm` and convolutions as persistent, warp-specialised kernels for Hopper
    (`kevolve_nvidia.cutedsl.product`, `kevolve_nvidia.cutedsl.convolution`) where types and layouts allow and
    the point does not ask for the library; `TritonRenderer` prints the rest.

    Args:
        processors: multiprocessors that a persistent kernel occupies; an H100 has 132.
    """

    language: str = "cute"
    processors: int = 132
    _triton: TritonRenderer = field(init=False)

    @_triton.default
    def _make_triton(self) -> TritonRenderer:
        return TritonRenderer("cute", self._claimed, program_space)

    def supports(self, step: Step) -> str:
        """Empty when ``step`` can be printed, else why not."""
        return self._triton.supports(step)

    def fuses(self, step: Attention) -> str:
        """See `kevolve_core.interfaces.Fusing`: Triton prints attention."""
        return self._triton.fuses(step)

    def program_space(self, programs: Sequence[Program], device: Device) -> Space:
        """See `kevolve_core.interfaces.Programming`."""
        return self._triton.program_space(programs, device)

    def declines(self, programs: Sequence[Program]) -> str:
        """See `kevolve_core.interfaces.Selective`: programs without a product that a kernel takes."""
        found = any(
            isinstance(step, LibraryCall) and fits(step, p.buffers) is not None
            for p in programs
            for step in p.steps
            for fits in (_fits, fitting_convolution)
        )
        if found:
            return ""
        return "no matrix product or convolution whose types and layouts the CuTe DSL kernels take"

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        """A candidate covering every case of ``programs``. Raises `UnsupportedError` for what Triton cannot
        print."""
        return self._triton.render(spec, programs, choices)

    def _claimed(self, step: Step, program: Program, point: Point) -> Foreign | Point:
        if not isinstance(step, LibraryCall) or not (is_matrix_product(step) or is_convolution(step)):
            return point
        if point.get("implementation", "generated") != "generated":
            return point
        if is_convolution(step):
            printed = printed_convolution(step, program, point, self.processors)
            if printed is None and "tile_rows" in point:  # of Triton's space: the kernel never takes the call
                return point
            return printed or {**point, "implementation": "library"}
        c = _fits(step, program.buffers)
        if c is None:  # the tile of the point is none of Triton's
            return {**point, "implementation": "library"}
        nest = None if step.epilogue is None else fused_nest(c, step.epilogue, program)
        try:
            after = None if nest is None else print_epilogue(c, nest, program.buffers)
        except UnsupportedError:
            after = None
        rest: tuple[Printed, ...] = ()
        if after is None:
            after = print_epilogue(c, plain_nest(c, step.name, program.buffers[c.output]), program.buffers)
            if step.epilogue is not None:
                rest = (Printed(step.epilogue.name, nest=step.epilogue, point=point),)
        parts = operand_parts(c.left.dtype)
        product = _Product(
            step, c, after, schedule_of(step, point, parts, self.processors), program, self.processors
        )
        return Foreign(
            name=step.name,
            buffers=product.buffers,
            text=product.text,
            imports=imports(*_MODULES),
            shared=carried(*_MODULES),
            rest=rest,
        )


@frozen
class _Product:
    """One product of a case, printed."""

    call: LibraryCall
    c: Contraction
    after: Epilogue
    s: ProductSchedule
    program: Program
    processors: int

    @property
    def buffers(self) -> tuple[str, ...]:
        read = [o.buffer for o in self.call.operands] + self.after.reads
        return (*dict.fromkeys(b for b in read if b != self.after.output), self.after.output)

    def text(self, function: str, names: Mapping[str, str]) -> str:
        """The epilogue, the product and the function that runs it on tensors."""
        s, (batch, m, n, _) = self.s, self.c.sizes
        dtype = self.c.left.dtype
        parts = operand_parts(dtype)
        left, right = self.call.operands
        a, b = self._layout(left, False, parts), self._layout(right, True, parts)
        options = f", parts={parts}, pairs={PAIRS[s.precision]}" if parts > 1 else ""
        covers = ", ".join(dict.fromkeys((*self.call.covers, *self._followers()))) or self.call.name
        size = f"{batch} x {m} x {n} x {self.c.sizes[3]}" if batch > 1 else f"{m} x {n} x {self.c.sizes[3]}"
        return "\n".join([
            f"def {function}_epilogue(value, row, column, slab, more):",
            *(f"    {line}" for line in self.after.lines),
            "",
            "",
            f"# {covers}: {size}",
            f"{function}_product = HopperProduct(",
            f"    tile=({s.rows}, {s.cols}, {s.depth}), stages={s.stages}, cluster={s.cluster},",
            f"    group={s.group}, clusters={self.processors // s.cluster}, "
            f"element=cutlass.{_ELEMENTS[dtype]},",
            f"    a={a}, b={b},",
            f"    d=(({m}, {n}, {batch}), ({n}, 1, {m * n})), epilogue={function}_epilogue{options},",
            ")",
            "",
            "",
            *self._function(function, names, parts),
        ])  # fmt: skip

    def _followers(self) -> Sequence[str]:
        return self.call.epilogue.covers if self.call.epilogue is not None and not self._plain() else ()

    def _plain(self) -> bool:
        return self.after.output == self.c.output

    def _layout(self, operand: Operand, columns: bool, parts: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides of (m or n, k, slabs of all parts)."""
        shape, strides = operand.shape[-2:], operand.strides[-2:]
        if columns:
            shape, strides = (shape[1], shape[0]), (strides[1], strides[0])
        batch, _, _, _ = self.c.sizes
        return (*shape, parts * batch), (*strides, _span(operand) // batch)

    def _function(self, function: str, names: Mapping[str, str], parts: int) -> list[str]:
        arguments = [names[b] for b in self.buffers]
        lines = [f"def {function}({', '.join(arguments)}):"]
        for variable, operand in zip(("left", "right"), self.call.operands, strict=True):
            flat = f"_flat({names[operand.buffer]}, {_span(operand)}, {operand.offset})"
            if parts > 1:
                key = f'("parts", {_span(operand)})'
                flat = f"_parts({key}, {flat}, {parts})"
            lines.append(f"    {variable} = {flat}")
        output = f"_flat({names[self.after.output]})"
        lines.append(f"    result = {output}")
        more = ["result", *(f"_flat({names[b]}, {self._extent(b)})" for b in self.after.reads)]
        lines.append(f"    more = ({', '.join(more)}{',' if len(more) == 1 else ''})")
        lines.append(f'    _call("{function}", {function}_product, left, right, result, more)')
        return lines

    def _extent(self, buffer: str) -> int:
        b = self.program.buffers[buffer]
        return 1 + sum((n - 1) * s for n, s in zip(b.shape, b.stride, strict=True))


def _span(operand: Operand) -> int:
    span = 1
    for n in operand.shape:
        span *= n
    return span
