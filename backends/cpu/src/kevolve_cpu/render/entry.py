"""Prints `kernel.py`: what allocates, checks and launches; the candidate's entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

from kevolve_core.ir import Buffer, LibraryCall, Operand, Program
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.languages.hostcode import (
    LAID_OUT,
    call_text,
    dispatch_text,
    literal,
    result_text,
    view_text,
)
from kevolve_cpu.render.library import row_operands
from kevolve_cpu.render.printer import identifier

__all__ = ["Launch", "entry_text"]


@frozen
class Launch:
    """One step of a case's launch code: a call of a native function with buffers, or a library call (with the
    native function of its epilogue, whether that takes a range of rows, and the rows of a tile or 0)."""

    native: str
    buffers: tuple[str, ...] = ()
    call: LibraryCall | None = None
    tile_rows: int = 0
    ranged: bool = False


@define
class _Case:
    program: Program
    launches: Sequence[Launch]
    module: str
    names: Mapping[str, str]
    lines: list[str] = field(factory=list)

    def text(self, function: str) -> str:
        p = self.program
        arguments = [self.names[b.name] for b in (*p.inputs(), *p.params())]
        for b in (*p.inputs(), *p.params()):
            if b.size > 0:
                n = self.names[b.name]
                self.lines.append(f"{n} = _laid_out({n}, {literal(b.stride)})")
        for b in p.buffers.values():
            if b.role in ("output", "temp") and not self._tile_only(b.name) and not self._by_library(b.name):
                self.lines.append(self._allocate(b, self.names[b.name], b.shape))
        for launch in self.launches:
            self._launch(launch)
        self.lines.append(f"return {result_text(p.structure, self._leaf)}")
        body = "\n".join(f"    {line}" for line in self.lines)
        return f"def {function}({', '.join(arguments)}):\n{body}\n"

    def _allocate(self, b: Buffer, name: str, shape: tuple[int, ...]) -> str:
        if b.strides is None or b.strides == Buffer("", b.shape, b.dtype, "temp").stride:
            return f"{name} = torch.empty({literal(shape)}, dtype=torch.{b.dtype})"
        return f"{name} = torch.empty_strided({literal(shape)}, {literal(b.stride)}, dtype=torch.{b.dtype})"

    def _tile_only(self, buffer: str) -> bool:
        """A library call's output that only its tiled epilogue reads needs one tile."""
        for launch in self.launches:
            if launch.call is not None and launch.call.output == buffer and launch.tile_rows:
                return True
        return False

    def _by_library(self, buffer: str) -> bool:
        """The library call allocates it."""
        return any(
            launch.call is not None
            and buffer in (launch.call.output, *launch.call.outputs)
            and not launch.tile_rows
            for launch in self.launches
        )

    def _pointer(self, buffer: str) -> str:
        b = self.program.buffers[buffer]
        name = f"_{self.names[buffer].upper()}" if b.role == "constant" else self.names[buffer]
        return f"{name}.data_ptr()"

    def _view(self, _: int, operand: Operand) -> str:
        b = self.program.buffers[operand.buffer]
        name = (
            f"_{self.names[operand.buffer].upper()}" if b.role == "constant" else self.names[operand.buffer]
        )
        return view_text(operand, self.program.buffers, name)

    def _launch(self, launch: Launch) -> None:
        call = launch.call
        if call is None:
            pointers = ", ".join(self._pointer(b) for b in launch.buffers)
            self.lines.append(f"{self.module}.{launch.native}({pointers})")
            return
        out = self.program.buffers[call.output]
        name = self.names[call.output]
        if call.repeat:
            self._repeated(launch, call, out, name)
            return
        if call.outputs:
            targets = ", ".join(self.names[b] if b else "_" for b in call.outputs)
            self.lines.append(
                f"{targets}{',' if len(call.outputs) == 1 else ''} = {call_text(call, self._view)}"
            )
            for b in filter(None, call.outputs):
                buffer = self.program.buffers[b]
                self.lines.append(f"{self.names[b]} = _laid_out({self.names[b]}, {literal(buffer.stride)})")
        elif not launch.tile_rows:
            self.lines.append(f"{name} = _laid_out({call_text(call, self._view)}, {literal(out.stride)})")
        if not launch.tile_rows:
            if launch.native:
                ends = ["0", str(out.shape[0])] if launch.ranged else []
                pointers = ", ".join([*(self._pointer(b) for b in launch.buffers), *ends])
                self.lines.append(f"{self.module}.{launch.native}({pointers})")
            return
        self._tiles(launch, call, out, name)

    def _repeated(self, launch: Launch, call: LibraryCall, out: Buffer, name: str) -> None:
        """A recurrence: the call and one row of its epilogue, time after time."""

        def view(i: int, operand: Operand) -> str:
            if not call.advance[i]:
                return f"operand_{i}"
            moved = f"{operand.offset} + time * {call.advance[i]}"
            variable = self.names[operand.buffer]
            return f"{variable}.as_strided({literal(operand.shape)}, {literal(operand.strides)}, {moved})"

        self.lines.append(self._allocate(out, name, out.shape))
        for i, operand in enumerate(call.operands):
            if not call.advance[i]:
                self.lines.append(f"operand_{i} = {self._view(i, operand)}")
        pointers = ", ".join(f"at_{k}" for k in range(len(launch.buffers)))
        self.lines += [f"at_{k} = {self._pointer(b)}" for k, b in enumerate(launch.buffers)]
        self.lines += [
            f"for time in range({call.repeat}):",
            f"    {call_text(call, view, name)}",
            f"    {self.module}.{launch.native}({pointers}, time, time + 1)",
        ]

    def _tiles(self, launch: Launch, call: LibraryCall, out: Buffer, name: str) -> None:
        rows = out.shape[0]
        tile = min(launch.tile_rows, rows)
        cut = row_operands(call)

        def view(i: int, operand: Operand) -> str:
            whole = self._view(i, operand)
            return f"{whole}[first:last]" if i in cut else whole

        pointers = [
            f"{name}.data_ptr() - first * {name}.stride(0) * {name}.element_size()"
            if b == call.output
            else self._pointer(b)
            for b in launch.buffers
        ]
        self.lines += [
            self._allocate(out, name, (tile, *out.shape[1:])),
            f"for first in range(0, {rows}, {tile}):",
            f"    last = min(first + {tile}, {rows})",
            f"    {call_text(call, view, f'{name}[: last - first]')}",
            f"    {self.module}.{launch.native}({', '.join([*pointers, 'first', 'last'])})",
        ]

    def _leaf(self, number: int) -> str:
        ref = self.program.outputs[number]
        return self._view(0, Operand(ref.buffer, ref.shape, ref.strides, ref.offset))


def _constants(programs: Sequence[Program], names: Mapping[str, str]) -> list[str]:
    lines = []
    done: set[str] = set()
    for p in programs:
        for b in p.buffers.values():
            if b.role == "constant" and b.name not in done:
                done.add(b.name)
                flat = f"torch.tensor({literal(list(b.data or ()))}, dtype=torch.{b.dtype})"
                shaped = flat if len(b.shape) == 1 else f"{flat}.reshape({literal(b.shape)})"
                lines.append(f"_{names[b.name].upper()} = {shaped}")
    return lines


def entry_text(
    spec: KernelSpec,
    programs: Sequence[Program],
    launches: Sequence[Sequence[Launch]],
    modules: Sequence[tuple[str, str, Mapping[str, str]]],
    names: Mapping[str, str],
) -> str:
    """The text of `kernel.py`. ``modules`` has, a case, the variable, file and functions of its native
    code."""
    parts = [f'"""{spec.name}: launches the generated C++ kernels."""\n\nimport torch\n']
    opened: list[str] = []
    for variable, file, natives in modules:
        line = f'{variable} = load_native("{file}", {dict(natives)!r})'
        if natives and line not in opened:
            opened.append(line)
    if opened:
        parts[0] += "from kevolve_core.native import load_native\n"
    constants = _constants(programs, names)
    parts.append("\n".join([*opened, *constants]) + "\n" if opened or constants else "")
    parts.append(LAID_OUT)
    functions: list[str] = []
    for p, steps, (variable, _, _) in zip(programs, launches, modules, strict=True):
        function = f"_{identifier(p.case)}"
        parts.append("\n" + _Case(p, steps, variable, names).text(function))
        functions.append(function)
    parts.append(dispatch_text(spec, programs, functions))
    return "\n\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n"
