"""Prints the function that runs one case: layouts, allocations, launches and library calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

from kevolve_core.ir import Buffer, LibraryCall, Operand, Program
from kevolve_core.languages.hostcode import call_text, literal, result_text, view_text
from kevolve_core.languages.triton.render.nest import Kernel

__all__ = ["Launch", "case_text", "constants_text"]


@frozen
class Launch:
    """One step of a case: a library call, the launch of a kernel whose buffers may be named otherwise, or a
    call of the candidate's own ``function``, which takes the tensors of ``buffers`` and returns nothing."""

    kernel: Kernel | None = None
    call: LibraryCall | None = None
    function: str = ""
    buffers: tuple[str, ...] = ()


def constants_text(programs: Sequence[Program], names: Mapping[str, str]) -> str:
    """Constants of the graph, held on the CPU and on each device they were asked for on."""
    lines: list[str] = []
    done: set[str] = set()
    for p in programs:
        for b in p.buffers.values():
            if b.role == "constant" and b.name not in done:
                done.add(b.name)
                flat = f"torch.tensor({literal(list(b.data or ()))}, dtype=torch.{b.dtype})"
                shaped = flat if len(b.shape) == 1 else f"{flat}.reshape({literal(b.shape)})"
                lines.append(f'    "{names[b.name]}": {shaped},')
    if not lines:
        return ""
    table = "_CONSTANTS = {\n" + "\n".join(lines) + "\n}\n_PLACED = {}"
    return f'''{table}


def _constant(name, device):
    """A constant of the graph on a device."""
    if (name, device) not in _PLACED:
        _PLACED[name, device] = _CONSTANTS[name].to(device)
    return _PLACED[name, device]
'''


def case_text(function: str, program: Program, launches: Sequence[Launch], names: Mapping[str, str]) -> str:
    """The function that runs one case: inputs by position, then parameters."""
    return _Case(program, launches, names).text(function)


@define
class _Case:
    program: Program
    launches: Sequence[Launch]
    names: Mapping[str, str]
    lines: list[str] = field(factory=list)

    def text(self, function: str) -> str:
        p = self.program
        given = (*p.inputs(), *p.params())
        used = self._used()
        for b in given:
            if b.size > 0 and b.name in used and b.shape:
                n = self.names[b.name]
                self.lines.append(f"{n} = _laid_out({n}, {literal(b.stride)})")
        first = next((self.names[b.name] for b in given), "")
        device = f"{first}.device" if first else "torch.get_default_device()"
        for b in p.buffers.values():
            if b.role == "constant" and b.name in used:
                self.lines.append(f'{self.names[b.name]} = _constant("{self.names[b.name]}", {device})')
        by_call = {b for x in self.launches if x.call for b in (x.call.output, *x.call.outputs)}
        for b in p.buffers.values():
            if b.role in ("output", "temp") and b.name not in by_call and b.name in used:
                self.lines.append(self._allocate(b, device))
        for launch in self.launches:
            self._launch(launch)
        self.lines.append(f"return {result_text(p.structure, self._leaf)}")
        body = "\n".join(f"    {line}" for line in self.lines)
        return f"def {function}({', '.join(self.names[b.name] for b in given)}):\n{body}\n"

    def _used(self) -> set[str]:
        found = {o.buffer for o in self.program.outputs}
        for launch in self.launches:
            if launch.kernel is not None:
                found |= set(launch.kernel.buffers)
            found |= set(launch.buffers)
            if launch.call is not None:
                found |= {o.buffer for o in launch.call.operands} | {launch.call.output, *launch.call.outputs}
        return found

    def _allocate(self, b: Buffer, device: str) -> str:
        name = self.names[b.name]
        if b.strides is None or b.strides == Buffer("", b.shape, b.dtype, "temp").stride:
            return f"{name} = torch.empty({literal(b.shape)}, dtype=torch.{b.dtype}, device={device})"
        layout = f"{literal(b.shape)}, {literal(b.stride)}"
        return f"{name} = torch.empty_strided({layout}, dtype=torch.{b.dtype}, device={device})"

    def _view(self, operand: Operand) -> str:
        return view_text(operand, self.program.buffers, self.names[operand.buffer])

    def _launch(self, launch: Launch) -> None:
        call, kernel = launch.call, launch.kernel
        lines: list[str] = []
        if call is not None:
            lines += self._call(call)
        if kernel is not None and kernel.grid:
            arguments = [self.names[b] for b in kernel.buffers] + (["step"] if kernel.step else [])
            arguments += [f"{k}={v}" for k, v in {**kernel.constexprs, **kernel.options}.items()]
            lines.append(f"{kernel.name}[({kernel.grid},)]({', '.join(arguments)})")
        if launch.function:
            lines.append(f"{launch.function}({', '.join(self.names[b] for b in launch.buffers)})")
        if call is not None and call.repeat:
            lines = [f"for step in range({call.repeat}):", *(f"    {line}" for line in lines)]
        self.lines += lines

    def _moving(self, call: LibraryCall, operand: Operand) -> str:
        """An operand of a recurrence at time ``step``."""
        by = next((a for o, a in zip(call.operands, call.advance, strict=False) if o is operand), 0)
        if not by:
            return self._view(operand)
        name = self.names[operand.buffer]
        place = f"{operand.offset} + step * {by} + {name}.storage_offset()"
        return f"{name}.as_strided({literal(operand.shape)}, {literal(operand.strides)}, {place})"

    def _call(self, call: LibraryCall) -> list[str]:
        text = call_text(call, lambda _, operand: self._moving(call, operand))
        if call.outputs:
            targets = ", ".join(self.names[b] if b else "_" for b in call.outputs)
            lines = [f"{targets}{',' if len(call.outputs) == 1 else ''} = {text}"]
            for b in filter(None, call.outputs):
                stride = literal(self.program.buffers[b].stride)
                lines.append(f"{self.names[b]} = _laid_out({self.names[b]}, {stride})")
            return lines
        stride = literal(self.program.buffers[call.output].stride)
        return [f"{self.names[call.output]} = _laid_out({text}, {stride})"]

    def _leaf(self, number: int) -> str:
        ref = self.program.outputs[number]
        return self._view(Operand(ref.buffer, ref.shape, ref.strides, ref.offset))
