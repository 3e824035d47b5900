"""A convolution of a case, printed for CuTe DSL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, LibraryCall, LoopNest, Program, itemsize
from kevolve_core.languages.triton.render.contraction import (
    Contraction,
    contraction_of,
    fused_nest,
    plain_nest,
)
from kevolve_core.languages.triton.render.renderer import Foreign
from kevolve_core.languages.triton.render.steps import Printed
from kevolve_core.space import Point
from kevolve_nvidia.cutedsl.carried import carried, imports
from kevolve_nvidia.cutedsl.convolution_schedule import (
    ConvolutionSchedule,
    Geometry,
    convolution_schedule_of,
    geometry_of,
    is_convolution,
    span_of,
)
from kevolve_nvidia.cutedsl.epilogue import Epilogue, print_epilogue

__all__ = ["fitting_convolution", "printed_convolution"]

_MODULES = ("support", "walk", "convolution")
_ELEMENTS = {"float32": "TFloat32", "bfloat16": "BFloat16", "float16": "Float16"}
_SPATIAL = ("x", "y", "z")
_ONCE = "channel"


def fitting_convolution(
    call: LibraryCall, buffers: Mapping[str, Buffer]
) -> tuple[Contraction, Geometry] | None:
    """The call as a contraction and in the kernel's terms, None where the kernel does not take it."""
    if not is_convolution(call) or (c := contraction_of(call, buffers)) is None:
        return None
    g = geometry_of(call, itemsize(c.left.dtype))
    if g is None:
        return None
    # Neighbours in memory are pixels of a row or channels.
    return (c, g) if _adjoining(_steps(c, _plain(c, call, buffers))) else None


def printed_convolution(step: LibraryCall, program: Program, point: Point, processors: int) -> Foreign | None:
    """The step with as much of its epilogue as the kernel computes, and nests for the rest; None where the
    kernel does not take it."""
    if (found := fitting_convolution(step, program.buffers)) is None:
        return None
    c, g = found
    nest = None if step.epilogue is None else fused_nest(c, step.epilogue, program)
    after = None if nest is None else _fused(c, nest, program.buffers)
    rest: tuple[Printed, ...] = ()
    if after is None:
        after = _plain(c, step, program.buffers)
        if step.epilogue is not None:
            rest = (Printed(step.epilogue.name, nest=step.epilogue, point=point),)
    steps = _steps(c, after)
    size = itemsize(c.left.dtype)
    s = convolution_schedule_of(g, point, size, processors, steps[4] == 1)
    text = _Convolution(step, c, g, after, steps, s, program, processors)
    return Foreign(
        name=step.name, buffers=text.buffers, text=text.text, imports=imports(*_MODULES),
        shared=carried(*_MODULES), rest=rest,
    )  # fmt: skip


def _names(c: Contraction) -> dict[str, str]:
    """Variables of the axes: images and places among rows, channels among columns, one group."""
    images, *places = c.rows
    names = {a.name: v for a, v in zip(reversed(places), _SPATIAL, strict=False)}
    return names | {images.name: "image", c.cols[0].name: _ONCE} | {a.name: "0" for a in c.batch}


def _fused(c: Contraction, nest: LoopNest, buffers: Mapping[str, Buffer]) -> Epilogue | None:
    try:
        after = print_epilogue(c, nest, buffers, _names(c), _ONCE)
    except UnsupportedError:
        return None
    return after if _adjoining(_steps(c, after)) else None


def _plain(c: Contraction, call: LibraryCall, buffers: Mapping[str, Buffer]) -> Epilogue:
    return print_epilogue(c, plain_nest(c, call.name, buffers[c.output]), buffers, _names(c), _ONCE)


def _steps(c: Contraction, after: Epilogue) -> tuple[int, int, int, int, int]:
    """How far neighbours of the result lie apart along (x, y, z, image, channel); where there is one, 0."""
    by = {_names(c)[axis]: step for axis, step in after.steps.items()}
    x, y, z, image, channel = (by.get(v, 0) for v in (*_SPATIAL, "image", _ONCE))
    return x, y, z, image, channel


def _adjoining(steps: tuple[int, int, int, int, int]) -> bool:
    return 1 in (steps[0], steps[4])


@frozen
class _Convolution:
    call: LibraryCall
    c: Contraction
    g: Geometry
    after: Epilogue
    steps: tuple[int, int, int, int, int]
    s: ConvolutionSchedule
    program: Program
    processors: int

    @property
    def buffers(self) -> tuple[str, ...]:
        read = [o.buffer for o in self.call.operands[:2]] + self.after.reads
        return (*dict.fromkeys(b for b in read if b != self.after.output), self.after.output)

    def text(self, function: str, names: Mapping[str, str]) -> str:
        """The epilogue, the convolution and the function that runs it on tensors."""
        g, s, walk = self.g, self.s, self.s.walk(self.g)
        covers = ", ".join(dict.fromkeys((*self.call.covers, *self._followers()))) or self.call.name
        once = ", ".join(self.after.once) + ("," if len(self.after.once) == 1 else "")
        return "\n".join([
            f"def {function}_constants(channel, more):",
            f"    return ({once})",
            "",
            "",
            f"def {function}_epilogue(value, own, x, y, z, image, channel, more):",
            *(f"    {line}" for line in self.after.lines),
            "",
            "",
            f"# {covers}: {g.images} x {g.taken} x {_sizes(g.image)}, {g.filters} x {_sizes(g.taps)}",
            f"{function}_convolution = HopperConvolution(",
            "    walk=ConvolutionWalk(",
            f"        filters={walk.filters}, images={walk.images}, result={walk.result}, taps={walk.taps},",
            f"        padding={walk.padding}, dilation={walk.dilation}, tile={walk.tile}, box={walk.box},",
            f"        cluster={walk.cluster}, shared={walk.shared}, mirrored={walk.mirrored},",
            "    ),",
            f"    depth={s.depth}, copies={s.copies}, stages={s.stages},",
            f"    clusters={self.processors // s.cluster}, element=cutlass.{_ELEMENTS[self.c.left.dtype]},",
            f"    taken={g.taken}, extents={(*g.image, g.images)}, image={g.strides},",
            f"    filters={self._filter_steps()}, d={self.steps},",
            f"    constants={function}_constants, epilogue={function}_epilogue,",
            f"    vector={self._vector()},",
            ")",
            "",
            "",
            *self._function(function, names),
        ])  # fmt: skip

    def _followers(self) -> Sequence[str]:
        plain = self.after.output == self.c.output
        return self.call.epilogue.covers if self.call.epilogue is not None and not plain else ()

    def _filter_steps(self) -> tuple[int, int]:
        """Strides of (output channel, tap) of the filters as the kernel reads them."""
        g = self.g
        if g.transposed:
            return math.prod(g.taps) * g.taken, g.taken
        return g.taken, g.filters * g.taken

    def _vector(self) -> int:
        """Neighbouring results that one store may take: 2 where pairs never cross a row or channel."""
        x, y, z, image, channel = self.steps
        inner = self.g.filters if channel == 1 else self.g.result[0]
        others = (x, y, z, image) if channel == 1 else (y, z, image, channel)
        return 1 if inner % 2 or any(step % 2 for step in others) else 2

    def _function(self, function: str, names: Mapping[str, str]) -> list[str]:
        g = self.g
        arguments = [names[b] for b in self.buffers]
        lines = [f"def {function}({', '.join(arguments)}):"]
        pixels, taps = math.prod(g.image), math.prod(g.taps)
        filters = (taps > 1, (g.filters, g.taken, taps), self._filter_steps())
        if g.transposed:  # (input channel, output channel, tap)
            filters = (True, (1, g.taken, g.filters * taps), (g.filters * taps * g.taken, g.taken))
        moved = {
            "image": (g.converts, (g.images, g.taken, pixels), (pixels * g.taken, g.taken)),
            "filters": filters,
        }
        for (variable, (moves, shape, steps)), operand in zip(
            moved.items(), self.call.operands[:2], strict=True
        ):
            flat = f"_flat({names[operand.buffer]}, {span_of(operand)}, {operand.offset})"
            lines.append(
                f"    {variable} = " + (f"_channels_last({flat}, {shape}, {steps})" if moves else flat)
            )
        lines.append(f"    result = _flat({names[self.after.output]})")
        more = ["result", *(f"_flat({names[b]}, {self._extent(b)})" for b in self.after.reads)]
        lines.append(f"    more = ({', '.join(more)}{',' if len(more) == 1 else ''})")
        lines.append(f'    _call("{function}", {function}_convolution, image, filters, result, more)')
        return lines

    def _extent(self, buffer: str) -> int:
        b = self.program.buffers[buffer]
        return 1 + sum((n - 1) * s for n, s in zip(b.shape, b.stride, strict=True))


def _sizes(triple: tuple[int, int, int]) -> str:
    """Width last, as PyTorch says it, without a depth of 1."""
    w, h, d = triple
    return " x ".join(map(str, (d, h, w) if d > 1 else (h, w)))
