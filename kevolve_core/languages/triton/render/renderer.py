"""`TritonRenderer`: lowered programs as Triton kernels, and the Python that launches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from attrs import evolve, frozen

from kevolve_core.errors import KevolveError
from kevolve_core.interfaces import PROGRAM
from kevolve_core.ir import (
    Attention,
    Buffer,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Program,
    Search,
    Statement,
    Step,
    Store,
    walk,
)
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.languages.hostcode import (
    ALL_LAID_OUT,
    LAID_OUT,
    REPLAY_IMPORT,
    call_text,
    dispatch_text,
)
from kevolve_core.languages.triton.render.attention import attention_schedule, print_attention
from kevolve_core.languages.triton.render.descriptors import DESCRIBED, DESCRIBED_IMPORT
from kevolve_core.languages.triton.render.helpers import HELPERS, helper_texts
from kevolve_core.languages.triton.render.host import LAUNCH, LAUNCH_NAMES, Launch, case_text, constants_text
from kevolve_core.languages.triton.render.nest import Kernel, print_nest, without_first
from kevolve_core.languages.triton.render.schedule import resolve
from kevolve_core.languages.triton.render.sharing import shared
from kevolve_core.languages.triton.render.steps import Printed, check_dtypes, chosen
from kevolve_core.languages.triton.render.tiling import expressions, tiling_of
from kevolve_core.languages.triton.render.words import Names, identifier
from kevolve_core.languages.triton.spaces import default_schedule
from kevolve_core.languages.windows import unrolled
from kevolve_core.model import Candidate, Device
from kevolve_core.space import Point, Space

__all__ = ["REPLAY", "Claim", "Foreign", "ProgramSpace", "TritonRenderer"]


@frozen
class Foreign:
    """A step that another language does in a candidate whose other steps are Triton's.

    Args:
        name: what its function should be called.
        buffers: tensors that the function takes, those that it writes among them.
        text: prints the function; given the name it gets and the tensors' names.
        imports, shared: lines and definitions that the module needs for it, once.
        rest: nests that follow it, with the points of their schedules.
    """

    name: str
    buffers: tuple[str, ...]
    text: Callable[[str, Mapping[str, str]], str]
    imports: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    rest: tuple[Printed, ...] = ()


#: Takes a step out of Triton's hands, or gives the point at which Triton prints it.
Claim = Callable[[Step, Program, Point], Foreign | Point]
#: Choices about a program as a whole on a device.
ProgramSpace = Callable[[Sequence[Program], Device], Space]
#: The one choice about a program: whether its launches are replayed (`kevolve_core.native.replayed`).
REPLAY = "replay"


@frozen
class TritonRenderer:
    """Prints every step of a program: nests and attention as kernels, library calls as calls of
    `torch.ops.aten`, and what ``claim`` takes as it says. ``programs`` gives the choices about a whole
    program on a device, where a backend has any: `REPLAY` alone is understood.

    The text is a function of the arguments alone. Each case has its own kernels: shapes are literals.
    """

    language: str = "triton"
    claim: Claim | None = None
    programs: ProgramSpace | None = None

    def program_space(self, programs: Sequence[Program], device: Device) -> Space:
        """See `kevolve_core.interfaces.Programming`."""
        return Space() if self.programs is None else self.programs(programs, device)

    def supports(self, step: Step) -> str:
        """Empty when ``step`` can be printed, else why not."""
        if isinstance(step, Attention):
            return self.fuses(step)
        try:
            nest = step.epilogue if isinstance(step, LibraryCall) else step
            if isinstance(step, LibraryCall):
                call_text(step, lambda _, operand: operand.buffer)
        except KevolveError as error:
            return error.what
        return "" if nest is None else _refusal(nest, isinstance(step, LibraryCall) and step.repeat > 0)

    def fuses(self, step: Attention) -> str:
        """See `kevolve_core.interfaces.Fusing`."""
        try:
            _try_attention(step)
        except KevolveError as error:
            return error.what
        return ""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        """A candidate covering every case of ``programs``."""
        names = _buffer_names(programs)
        functions = Names([*HELPERS, *LAUNCH_NAMES, *names.values()])
        kernels: list[Kernel] = []
        cases: list[str] = []
        entries: list[str] = []
        libraries: dict[str, None] = {}
        foreign: list[tuple[Foreign, str]] = []
        number = 0
        replay = bool(choices.get(PROGRAM, {}).get(REPLAY))
        for program in programs:
            launches: list[Launch] = []
            suffix = f"_{program.case}" if len(programs) > 1 else ""
            steps = [x for step in program.steps for x in self._chosen(step, program, choices)]
            temporary = {b.name: b for x in steps if isinstance(x, Printed) for b in x.buffers}
            names |= {n: functions.fresh(n) for n in temporary if n not in names}
            program = evolve(program, buffers={**program.buffers, **temporary})
            groups = shared(steps, program.buffers)
            printed: dict[int, tuple[Kernel, tuple[int, ...]]] = {}
            for place, x in enumerate(steps):
                if isinstance(x, Foreign):
                    own = functions.fresh(f"{x.name}{suffix}")
                    foreign.append((x, x.text(own, names)))
                    launches.append(Launch(function=own, buffers=x.buffers))
                    continue
                if x.call is not None:
                    libraries[x.call.op] = None
                if place in groups:
                    function = functions.fresh(f"{x.name}{suffix}_kernel")
                    printed |= groups[place].kernel(program.buffers, names, function)
                    kernels.append(printed[place][0])
                kernel, offsets = printed.get(place, (None, ()))
                launches.append(Launch(kernel, x.call, offsets=offsets))
            entries.append(functions.fresh(f"run_{program.case}"))
            cases.append(case_text(f"_{entries[-1]}", program, launches, names, number))
            number += sum(x.kernel is not None for x in launches)
        parts = [
            f'"""{spec.name}: generated {"Triton " if self.claim is None else ""}kernels."""\n\n'
            + ("import functools\nimport operator\n\n" if kernels else "")
            + "import torch"
            + ("\nimport triton\nimport triton.language as tl" if kernels else "")
            + (f"\n{DESCRIBED_IMPORT}" if any(k.descriptors for k in kernels) else "")
            + "".join(f"\n{line}" for line in dict.fromkeys(i for x, _ in foreign for i in x.imports))
            + (f"\n{REPLAY_IMPORT}" if replay else ""),
            constants_text(programs, names),
            *dict.fromkeys(text for x, _ in foreign for text in x.shared),
            *(text for _, text in foreign),
            *helper_texts(h for k in kernels for h in k.helpers),
            *(k.text for k in kernels),
            LAUNCH if kernels else "",
            DESCRIBED if any(k.descriptors for k in kernels) else "",
            LAID_OUT if any("_laid_out(" in c for c in cases) else "",
            ALL_LAID_OUT if any("_all_laid_out(" in c for c in cases) else "",
            *cases,
            dispatch_text(spec, programs, [f"_{e}" for e in entries], replay),
        ]
        text = "\n\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n"
        symbol = "" if spec.reference.kind == "module" else spec.reference.symbol
        genome = {"choices": {k: dict(v) for k, v in sorted(choices.items())}}
        return Candidate(
            {"kernel.py": text}, "kernel.py", self.language, symbol=symbol, genome=genome,
            libraries=tuple(libraries),
        )  # fmt: skip

    def _chosen(
        self, step: Step, program: Program, choices: Mapping[str, Point]
    ) -> Sequence[Printed | Foreign]:
        point = choices.get(step.name, {})
        taken = self.claim(step, program, point) if self.claim is not None else point
        return (taken, *taken.rest) if isinstance(taken, Foreign) else chosen(step, program, taken)


@lru_cache(maxsize=512)  # several renderers of a backend ask for the same nests
def _refusal(nest: LoopNest, step: bool) -> str:
    """Why no schedule can print a nest, or ""."""
    try:
        _try(nest, step)
    except KevolveError as error:
        return error.what
    return ""


def _try(nest: LoopNest, step: bool) -> None:
    """Raise UnsupportedError where a nest has what no schedule can print, by printing it."""
    buffers = _imagined(nest.body)
    for cols in (1 << 20, 16):
        shape = without_first(nest) if step else unrolled(nest)
        schedule = evolve(default_schedule(shape), cols=cols)
        schedule = resolve(tiling_of(shape), {"rows": 2, "cols": cols}, schedule)
        check_dtypes(nest, buffers)
        print_nest(nest, buffers, {n: identifier(n) for n in buffers}, schedule, "probe", step=step)


def _try_attention(a: Attention) -> None:
    """As `_try`, of attention."""
    roots = tuple(Let("value", e) for e in (a.query, a.key, a.value, a.score))
    buffers = _imagined((*roots, *a.result.body))
    for nest in (a.result, *(evolve(a.result, body=(root,)) for root in roots)):
        check_dtypes(nest, buffers)
    names = {n: identifier(n) for n in buffers}
    print_attention(a, buffers, names, attention_schedule(a, {}), "probe")


def _imagined(body: Sequence[Statement]) -> dict[str, Buffer]:
    """Buffers that ``body`` may access, as far as it shows."""
    dtypes: dict[str, tuple[int, str]] = {}
    for s in body:
        for root in expressions(s):
            for e in walk(root):
                if isinstance(e, Load):
                    dtypes[e.buffer] = (len(e.index), e.dtype)
        if isinstance(s, Store):
            dtypes.setdefault(s.buffer, (len(s.index), s.value.dtype))
        elif isinstance(s, Search):
            dtypes.setdefault(s.buffer, (len(s.index) + 1, s.value.dtype))
    return {n: Buffer(n, (4,) * rank, dtype, "temp") for n, (rank, dtype) in dtypes.items()}


def _buffer_names(programs: Sequence[Program]) -> dict[str, str]:
    """Buffer name -> identifier, one for one."""
    names = Names([*HELPERS, *LAUNCH_NAMES])
    return {n: names.fresh(n) for n in dict.fromkeys(b for p in programs for b in p.buffers)}
