"""Prints the function that runs one case: layouts, allocations, launches and library calls.

Many short steps take the host longer than the device, so the text does at each call what differs between
calls and nothing else: layouts are compared at once, a launch is resolved at its first call, and a temporary
tensor takes the memory of one that nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

from kevolve_core.ir import Buffer, LibraryCall, Operand, Program
from kevolve_core.languages.hostcode import aliases, call_text, literal, result_text, view_text
from kevolve_core.languages.triton.render.descriptors import Described
from kevolve_core.languages.triton.render.nest import Kernel

__all__ = ["LAUNCH", "LAUNCH_NAMES", "Launch", "case_text", "constants_text"]

#: Names that `LAUNCH` defines or imports.
LAUNCH_NAMES = (
    "functools", "operator", "_COMPILED", "_ready", "_launch", "ready", "TensorDescriptor", "_described",
)  # fmt: skip
#: How kernels are launched. `CompiledKernel.__getitem__` is Triton's own way past the look at every argument
#: that takes most of a launch; what it was compiled for must then still hold.
LAUNCH = '''
_COMPILED = {}


def _ready(*given):
    """What Triton made of the launches at earlier calls, by number: for this device, these types, and
    addresses that are multiples of 16, as PyTorch's are. Views of the caller's may have others, and start
    anew."""
    if functools.reduce(operator.or_, map(torch.Tensor.data_ptr, given)) % 16:
        return {}
    return _COMPILED.setdefault((given[0].device, *[t.dtype for t in given]), {})


def _launch(ready, number, kernel, grid, *arguments, **options):
    """`kernel[(grid,)](*arguments, **options)`; again the same way, without looking at what is known."""
    if number in ready:
        launch, constants = ready[number]
        launch(*arguments, *constants)
        return
    compiled = kernel[(grid,)](*arguments, **options)
    if compiled is not None:  # None: nothing runs here, launches are only recorded
        constants = [options[name] for name in kernel.arg_names[len(arguments) :]]
        ready[number] = compiled[grid, 1, 1], constants
'''


@frozen
class Launch:
    """One step of a case: a library call, the launch of a kernel whose buffers may be named otherwise, or a
    call of the candidate's own ``function``, which takes the tensors of ``buffers`` and returns nothing.
    ``offsets`` are the kernel's."""

    kernel: Kernel | None = None
    call: LibraryCall | None = None
    function: str = ""
    buffers: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()


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


def case_text(
    function: str, program: Program, launches: Sequence[Launch], names: Mapping[str, str], first: int = 0
) -> str:
    """The function that runs one case: inputs by position, then parameters. Its launches of kernels are
    numbered from ``first`` on."""
    return _Case(program, launches, names, first).text(function)


@define
class _Case:
    program: Program
    launches: Sequence[Launch]
    names: Mapping[str, str]
    number: int = 0
    lines: list[str] = field(factory=list)

    def text(self, function: str) -> str:
        p = self.program
        given = (*p.inputs(), *p.params())
        used = self._used()
        self._lay_out([b for b in given if b.size > 0 and b.name in used and b.shape])
        first = next((self.names[b.name] for b in given), "")
        device = f"{first}.device" if first else "torch.get_default_device()"
        if any(b.role != "param" for b in p.buffers.values() if b.name in used) and first:
            self.lines.append(f"device = {device}")
            device = "device"
        for b in p.buffers.values():
            if b.role == "constant" and b.name in used:
                self.lines.append(f'{self.names[b.name]} = _constant("{self.names[b.name]}", {device})')
        if any(x.kernel is not None and x.kernel.grid for x in self.launches):
            pointers = ", ".join(self.names[b.name] for b in given if b.name in used)
            self.lines.append(f"ready = _ready({pointers})" if pointers else "ready = {}")
        allocations = self._allocations(device)
        for k, launch in enumerate(self.launches):
            self.lines += allocations.get(k, ())
            self._launch(launch)
        self.lines += allocations.get(len(self.launches), ())
        self.lines.append(f"return {result_text(p.structure, self._leaf)}")
        body = "\n".join(f"    {line}" for line in self.lines)
        return f"def {function}({', '.join(self.names[b.name] for b in given)}):\n{body}\n"

    def _lay_out(self, given: Sequence[Buffer]) -> None:
        """The checks that ``given`` lie as the kernels take them to."""
        if len(given) == 1:
            name = self.names[given[0].name]
            self.lines.append(f"{name} = _laid_out({name}, {literal(given[0].stride)})")
        elif given:
            variables = ", ".join(self.names[b.name] for b in given)
            strides = literal(tuple(b.stride for b in given))
            self.lines += [f"{variables} = _all_laid_out(", f"    ({variables}),", f"    {strides},", ")"]

    def _touched(self, launch: Launch) -> set[str]:
        found = set(launch.buffers)
        if launch.kernel is not None:
            found |= {*launch.kernel.buffers, *(d.buffer for d in launch.kernel.descriptors)}
        if launch.call is not None:
            found |= {o.buffer for o in launch.call.operands} | {launch.call.output, *launch.call.outputs}
        return found - {""}

    def _allocations(self, device: str) -> dict[int, list[str]]:
        """Lines that allocate, by the launch they stand before: what is needed from there on for the first
        time. A temporary tensor takes the memory of another of its layout that no later launch touches,
        unless a library's result may lie in there."""
        p = self.program
        by_call = {b for x in self.launches if x.call for b in (x.call.output, *x.call.outputs)}
        begin: dict[str, int] = {}
        end: dict[str, int] = {}
        lent: set[str] = {o.buffer for o in p.outputs}
        for k, launch in enumerate(self.launches):
            for name in self._touched(launch):
                begin.setdefault(name, k)
                end[name] = k
            if launch.call is not None and aliases(launch.call):
                lent |= {o.buffer for o in launch.call.operands}
        found: dict[int, list[str]] = {}
        free: dict[tuple[object, ...], list[str]] = {}
        waiting = sorted((k, name) for name, k in end.items())
        own = [b for b in p.buffers.values() if b.role in ("output", "temp") and b.name not in by_call]
        order = sorted((b for b in own if b.name in begin), key=lambda b: begin[b.name])
        taken: set[str] = {b.name for b in order if b.role == "temp"} - lent
        for b in order:
            while waiting and waiting[0][0] < begin[b.name]:
                name = waiting.pop(0)[1]
                if name in taken:
                    done = p.buffers[name]
                    free.setdefault((done.shape, done.stride, done.dtype), []).append(name)
            line = self._allocate(b, device)
            if b.name in taken and (old := free.get((b.shape, b.stride, b.dtype))):
                line = f"{self.names[b.name]} = {self.names[old.pop()]}  # which nobody reads any more"
            found.setdefault(begin[b.name], []).append(line)
        left = [b for b in own if b.name not in begin and b.name in {o.buffer for o in p.outputs}]
        found.setdefault(len(self.launches), []).extend(self._allocate(b, device) for b in left)
        return found

    def _used(self) -> set[str]:
        found = {o.buffer for o in self.program.outputs}
        for launch in self.launches:
            found |= self._touched(launch)
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
            arguments += [self._described(d) for d in kernel.descriptors]
            arguments += [str(n) for n in launch.offsets]
            arguments += [f"{k}={v}" for k, v in {**kernel.constexprs, **kernel.options}.items()]
            head = f"ready, {self.number}, {kernel.name}, {kernel.grid}"
            lines.append(f"_launch({', '.join([head, *arguments])})")
            self.number += 1
        if launch.function:
            lines.append(f"{launch.function}({', '.join(self.names[b] for b in launch.buffers)})")
        if call is not None and call.repeat:
            lines = [f"for step in range({call.repeat}):", *(f"    {line}" for line in lines)]
        self.lines += lines

    def _described(self, d: Described) -> str:
        name = self.names[d.buffer]
        if d.offset:
            place = f"{d.offset} + {name}.storage_offset()"
            name = f"{name}.as_strided({literal(d.shape)}, {literal(d.strides)}, {place})"
        return f"_described({name}, {list(d.shape)}, {list(d.strides)}, {list(d.block)})"

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
