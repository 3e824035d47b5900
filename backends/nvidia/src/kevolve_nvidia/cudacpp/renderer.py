"""`CudaRenderer`: lowered programs as CUDA C++ row kernels, and the Python that launches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from kevolve_core.errors import KevolveError
from kevolve_core.interfaces import PROGRAM
from kevolve_core.ir import Attention, LibraryCall, LoopNest, Program, Step
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.languages.hostcode import ALL_LAID_OUT, LAID_OUT, call_text, dispatch_text
from kevolve_core.languages.triton import REPLAY
from kevolve_core.languages.triton.render.host import Launch, case_text, constants_text
from kevolve_core.languages.triton.render.words import Names
from kevolve_core.model import Candidate, Device
from kevolve_core.space import Point, Space
from kevolve_nvidia.cudacpp.operators import HELPERS
from kevolve_nvidia.cudacpp.rows import RowKernel, check_nest, print_rows
from kevolve_nvidia.cudacpp.schedule import crosses, row_schedule, row_space
from kevolve_nvidia.launching import program_space

__all__ = ["CudaRenderer", "cuda_space"]

_FILE = "kernel.cu"
_ALIGNED = '''
def _aligned(tensor):
    """`tensor`, where 16-byte accesses may begin."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
'''
#: Names that the two files use themselves.
_TAKEN = (
    "kernels", "row", "lane", "first", "col", "asked", "live", "tile", "pack", "word", "part", "get", "put",
    "wide", "narrow", "Value", "Word", "get_all", "put_all", "load_native", *HELPERS,
)  # fmt: skip


def cuda_space(step: Step) -> Space:
    """Tunables of ``step`` in CUDA C++: those of its nest; a library call has none."""
    nest = step.epilogue if isinstance(step, LibraryCall) else step
    return row_space(nest) if isinstance(nest, LoopNest) else Space()


@frozen
class CudaRenderer:
    """Prints nests as row kernels, library calls as calls of `torch.ops.aten`. The text is a function of the
    arguments alone; each case has its own kernels, shapes are literals."""

    language: str = "cuda"

    def supports(self, step: Step) -> str:
        """Empty when ``step`` can be printed, else why not."""
        if isinstance(step, Attention):  # as its parts
            return next((reason for part in step.steps if (reason := self.supports(part))), "")
        try:
            if isinstance(step, LibraryCall):
                if step.repeat:
                    return "the CUDA renderer prints no recurrence"
                call_text(step, lambda _, operand: operand.buffer)
            nest = step.epilogue if isinstance(step, LibraryCall) else step
            if nest is not None:
                check_nest(nest)
                row_space(nest)
        except KevolveError as error:
            return error.what
        return ""

    def program_space(self, programs: Sequence[Program], device: Device) -> Space:
        """See `kevolve_core.interfaces.Programming`."""
        return program_space(programs, device)

    def declines(self, programs: Sequence[Program]) -> str:
        """See `kevolve_core.interfaces.Selective`: without a kernel of its own, or where channels-last memory
        makes a nest read along its rows, which threads of a row cannot do together."""
        if not any(True for p in programs for _ in p.nests()):
            return "only library calls are left to print"
        ordered = any(s.order for p in programs for s in p.singles() if isinstance(s, LibraryCall))
        if ordered and any(crosses(nest) for p in programs for nest in p.nests()):
            return "a nest runs across memory"
        return ""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        """A candidate covering every case of ``programs``: a Python entry and one CUDA C++ file.

        Raises:
            UnsupportedError: a step is none that `supports` accepts.
        """
        axes = {f"at_{a.name}" for p in programs for nest in p.nests() for a in nest.axes}
        taken = Names([*_TAKEN, *sorted(axes)])
        names = {b: taken.fresh(b) for b in dict.fromkeys(n for p in programs for n in p.buffers)}
        kernels: list[RowKernel] = []
        replay = bool(choices.get(PROGRAM, {}).get(REPLAY))
        cases: list[str] = []
        entries: list[str] = []
        libraries: dict[str, None] = {}
        for program in programs:
            launches: list[Launch] = []
            suffix = f"_{program.case}" if len(programs) > 1 else ""

            def kernel_of(
                nest: LoopNest, step: str, program: Program = program, suffix: str = suffix
            ) -> Launch:
                schedule = row_schedule(nest, choices.get(step, {}))
                function = taken.fresh(f"{nest.name}{suffix}")
                made = print_rows(nest, program.buffers, names, schedule, function)
                kernels.append(made)
                return Launch(function=f"_{function}", buffers=made.buffers)

            for step in program.singles():
                if isinstance(step, LibraryCall):
                    libraries[step.op] = None
                    launches.append(Launch(call=step))
                    if step.epilogue is not None:
                        launches.append(kernel_of(step.epilogue, step.name))
                else:
                    launches.append(kernel_of(step, step.name))
            entries.append(taken.fresh(f"run_{program.case}"))
            cases.append(case_text(f"_{entries[-1]}", program, launches, names))
        native = "\n\n".join([
            Path(__file__).with_name("preamble.cuh").read_text().strip(),
            *(HELPERS[h] for h in HELPERS if any(h in k.helpers for k in kernels)),
            *(k.text for k in kernels),
        ])  # fmt: skip
        parts = [
            f'"""{spec.name}: generated CUDA C++ kernels."""\n\nimport torch\n'
            f"from kevolve_core.native import load_native{', replayed' if replay else ''}",
            _loaded(kernels),
            _ALIGNED,
            *(_launcher(k, names) for k in kernels),
            constants_text(programs, names),
            LAID_OUT if any("_laid_out(" in c for c in cases) else "",
            ALL_LAID_OUT if any("_all_laid_out(" in c for c in cases) else "",
            *cases,
            dispatch_text(spec, programs, [f"_{e}" for e in entries], replay),
        ]
        text = "\n\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n"
        return Candidate(
            {"kernel.py": text, _FILE: native + "\n"},
            "kernel.py",
            self.language,
            symbol="" if spec.reference.kind == "module" else spec.reference.symbol,
            genome={"choices": {k: dict(v) for k, v in sorted(choices.items())}},
            libraries=tuple(libraries),
        )


def _loaded(kernels: Sequence[RowKernel]) -> str:
    lines = [f'        "{k.name}": "{"p" * len(k.buffers)}",' for k in kernels]
    return "\n".join(["kernels = load_native(", f'    "{_FILE}",', "    {", *lines, "    },", ")"])


def _launcher(k: RowKernel, names: Mapping[str, str]) -> str:
    """The function that launches a kernel on tensors."""
    arguments = [names[b] for b in k.buffers]
    read = arguments[: len(arguments) - k.written]
    lines = [f"{n} = _aligned({n})" for n in read]
    pointers = "".join(f"{n}.data_ptr(), " for n in arguments)
    lines.append(f"kernels.{k.name}({pointers}grid={k.grid}, block={k.block})")
    return f"def _{k.name}({', '.join(arguments)}):\n" + "\n".join(f"    {line}" for line in lines)
