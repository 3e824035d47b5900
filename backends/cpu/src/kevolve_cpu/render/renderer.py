"""`CppRenderer`: lowered programs as C++17 with OpenMP, and the Python entry that launches them."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.ir import (
    Attention,
    Buffer,
    LibraryCall,
    Load,
    LoopNest,
    Program,
    Search,
    Single,
    Step,
    Store,
    singles,
)
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.languages.hostcode import call_text
from kevolve_core.model import Candidate
from kevolve_core.space import Point
from kevolve_cpu.render.attention import (
    RowFunction,
    attention_blocks,
    fusible,
    print_attention,
    row_nests,
)
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.entry import Launch, entry_text
from kevolve_cpu.render.exact import Products
from kevolve_cpu.render.kinds import HALF, SCALAR, STORAGE
from kevolve_cpu.render.library import tileable
from kevolve_cpu.render.nest import parameters, print_nest
from kevolve_cpu.render.preamble import HELPER_NAMES, Preamble
from kevolve_cpu.render.printer import identifier
from kevolve_cpu.render.product import Blocks, Epilogue, multiplies, print_product
from kevolve_cpu.render.sharing import Shared
from kevolve_cpu.render.tidy import expressions, uses
from kevolve_cpu.spaces import product_blocks, resolve

__all__ = ["CppRenderer"]

_WORDS = """
alignas alignof and asm bitand bitor bool catch char char16_t char32_t class compl const_cast delete do
double dynamic_cast enum explicit export extern float friend goto int long mutable namespace new not_eq
operator or_eq private protected public register reinterpret_cast short signed sizeof static
static_assert static_cast switch template this thread_local throw typeid typename union unsigned using
virtual void volatile wchar_t xor xor_eq and_eq linux unix main first_row last_row first last min range
torch load_native
"""

#: what neither a buffer nor a value may be called: words of C++ and Python, and names the files use
_RESERVED = frozenset([*_WORDS.split(), *keyword.kwlist, *keyword.softkwlist]) | HELPER_NAMES


@frozen
class CppRenderer:
    """Prints every step of a program: nests as C++ functions, library calls as calls of `torch.ops.aten` or,
    where a schedule says so, products as C++ functions too.

    The steps of a case between two library calls are run by one exported function, so a case without library
    calls costs one foreign call. The text is a function of the arguments alone.
    """

    language: str = "cpp"

    def supports(self, step: Step) -> str:
        """Empty when ``step`` can be printed, else why not."""
        if isinstance(step, Attention):
            return next((reason for part in step.steps if (reason := self.supports(part))), "")
        try:
            if isinstance(step, LibraryCall):
                call_text(step, lambda _, operand: operand.buffer)
                step_nest = step.epilogue
            else:
                step_nest = step
            if step_nest is not None:
                _check(step_nest)
        except KevolveError as error:
            return error.what
        return ""

    def fuses(self, step: Attention) -> str:
        """See `kevolve_core.interfaces.Fusing`."""
        return fusible(step) or self.supports(step)

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        """A candidate covering every case of ``programs``."""
        names = _names(programs)
        files: dict[str, str] = {}
        launches: list[list[Launch]] = []
        modules: list[tuple[str, str, Mapping[str, str]]] = []
        libraries: dict[str, None] = {}
        programs = [_with_parts(p) for p in programs]
        for program in programs:
            for step in program.steps:
                if isinstance(step, LibraryCall) and _blocks(step, program, choices) is None:
                    libraries[step.op] = None
            program = _contiguous_searches(program)
            alone = len(programs) == 1
            stem = "kernel" if alone else f"kernel_{identifier(program.case)}"
            text, steps, functions = _native(program, names, choices)
            if text:
                files[f"{stem}.cpp"] = f"// {spec.name}, case {program.case}\n\n{text}"
            launches.append(steps)
            modules.append(
                (f"_{stem.removeprefix('_')}" if not alone else "_native", f"{stem}.cpp", functions)
            )
        programs = [_without_products(_contiguous_searches(p), choices) for p in programs]
        files["kernel.py"] = entry_text(spec, programs, launches, modules, names)
        genome = {"choices": {k: dict(v) for k, v in sorted(choices.items())}}
        symbol = "" if spec.reference.kind == "module" else spec.reference.symbol
        return Candidate(
            {k: files[k] for k in sorted(files)},
            "kernel.py",
            self.language,
            symbol=symbol,
            genome=genome,
            libraries=tuple(libraries),
        )


def _check(nest: LoopNest) -> None:
    """Raise UnsupportedError where a nest has what no schedule can print, by printing it."""
    _check_dtypes(nest)
    dtypes: dict[str, tuple[int, str]] = {}
    for s in nest.body:
        for e in uses(expressions(s)):
            if isinstance(e, Load):
                dtypes[e.buffer] = (len(e.index), e.dtype)
        if isinstance(s, Store):
            dtypes.setdefault(s.buffer, (len(s.index), s.value.dtype))
        elif isinstance(s, Search):
            dtypes.setdefault(s.buffer, (len(s.index) + 1, s.value.dtype))
    buffers = {n: Buffer(n, (4,) * rank, dtype, "temp") for n, (rank, dtype) in dtypes.items()}
    names = {n: identifier(n) for n in buffers}
    print_nest(nest, buffers, names, resolve(nest, {}), Preamble(), "probe")


def _check_dtypes(nest: LoopNest) -> None:
    for s in nest.body:
        for e in uses(expressions(s)):
            if e.dtype not in STORAGE:
                raise UnsupportedError(
                    f"C++ renderer has no dtype {e.dtype}",
                    where=f"nest {nest.name}, {type(s).__name__} {getattr(s, 'name', '')}".rstrip(),
                )


def _names(programs: Sequence[Program]) -> dict[str, str]:
    """Buffer name -> identifier, one for one."""
    found: dict[str, str] = {}
    taken: set[str] = set(_RESERVED)
    for p in programs:
        for name in p.buffers:
            if name not in found:
                stem = identifier(name)
                unique, n = stem, 1
                while unique in taken:
                    n += 1
                    unique = f"{stem}_{n}"
                taken.add(unique)
                found[name] = unique
    return found


def _contiguous_searches(program: Program) -> Program:
    """Searched inputs are taken with contiguous rows: the entry lays them out so."""
    searched = {s.buffer for n in program.nests() for s in n.body if isinstance(s, Search)}
    buffers = {
        n: evolve(b, strides=None) if n in searched and b.role in ("input", "param") else b
        for n, b in program.buffers.items()
    }
    return evolve(program, buffers=buffers)


def _blocks(call: LibraryCall, program: Program, choices: Mapping[str, Point]) -> Blocks | None:
    """How a product is cut where it is to be generated and can be."""
    blocks = product_blocks(call, choices.get(call.name, {}))
    return None if blocks is None or multiplies(call, program.buffers) else blocks


def _without_products(program: Program, choices: Mapping[str, Point]) -> Program:
    """Without the outputs of generated products whose epilogue runs row by row: nobody allocates those."""
    inside = {
        s.output
        for s in program.steps
        if isinstance(s, LibraryCall)
        and _blocks(s, program, choices) is not None
        and _row_epilogue(s, program)
    }
    for s in program.steps:
        if isinstance(s, Attention):
            stored = {b for part in s.steps for b in _written(part)}
            inside |= stored - set(s.result.writes())
    return evolve(program, buffers={n: b for n, b in program.buffers.items() if n not in inside})


def _written(step: Single) -> tuple[str, ...]:
    nest = step.epilogue if isinstance(step, LibraryCall) else step
    own = (step.output,) if isinstance(step, LibraryCall) else ()
    return (*own, *(nest.writes() if nest is not None else ()))


def _with_parts(program: Program) -> Program:
    """``program`` with the parts of attention that is no function of its own."""
    steps = (singles(s) if isinstance(s, Attention) and fusible(s) else (s,) for s in program.steps)
    return evolve(program, steps=tuple(x for some in steps for x in some))


@frozen
class _Function:
    """A generated function and its parameters: buffers it reads, then those it writes, and the element of
    each that a call passes the address of (the first of all, where none are given)."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    offsets: tuple[int, ...] = ()

    def arguments(self, names: Mapping[str, str]) -> str:
        """The text of a call's arguments."""
        used = [names[b] for b in (*self.reads, *self.writes)]
        moved = zip(used, self.offsets or (0,) * len(used), strict=True)
        return ", ".join(f"{name} {'+' if by > 0 else '-'} {abs(by)}" if by else name for name, by in moved)


def _native(
    program: Program, names: Mapping[str, str], choices: Mapping[str, Point]
) -> tuple[str, list[Launch], dict[str, str]]:
    """(text of the C++ file or "", launch steps, exported functions)."""
    preamble = Preamble()
    products = Products.of(program.nests())
    bodies: list[str] = []
    exported: dict[str, str] = {}
    entries: list[str] = []
    launches: list[Launch] = []
    group: list[_Function] = []
    case = identifier(program.case).strip("_") or "case"

    shared = Shared(program.buffers, products)

    def nest_function(nest: LoopNest, schedule: Schedule, rows: bool) -> _Function:
        function = f"{identifier(nest.name)}_nest"
        for b in (*nest.reads(), *nest.writes()):
            if program.buffers[b].dtype not in STORAGE:
                raise UnsupportedError(f"dtype {program.buffers[b].dtype}", where=f"buffer {b}")
        call, new = shared.call(nest, schedule, rows, function)
        if new:
            bodies.append(
                print_nest(nest, program.buffers, names, schedule, preamble, function, rows, products)
            )
        reads = len(parameters(nest)[0])
        return _Function(call.function, call.buffers[:reads], call.buffers[reads:], call.offsets)

    def close() -> None:
        if not group:
            return
        used: dict[str, None] = {}
        written = {b for f in group for b in f.writes}
        calls = []
        for f in group:
            used.update(dict.fromkeys((*f.reads, *f.writes)))
            calls.append(f"    {f.name}({f.arguments(names)});")
        name = f"run_{case}" if not exported else f"run_{case}_{len(exported) + 1}"
        entries.append(_exported(program, names, name, tuple(used), written, calls, ""))
        exported[name] = "p" * len(used)
        launches.append(Launch(name, tuple(used)))
        group.clear()

    for step in program.steps:
        if isinstance(step, Attention):
            group.append(_attention(step, program, names, choices.get(step.name, {}), preamble, bodies))
            continue
        if isinstance(step, LoopNest):
            _check_dtypes(step)
            group.append(nest_function(step, resolve(step, choices.get(step.name, {})), False))
            continue
        if (blocks := _blocks(step, program, choices)) is not None:
            group += _product(step, program, names, blocks, choices[step.name], preamble, bodies)
            continue
        close()
        if step.epilogue is None:
            launches.append(Launch("", (), step))
            continue
        point = choices.get(step.name, {})
        _check_dtypes(step.epilogue)
        schedule = resolve(step.epilogue, point, rowwise=True)
        rows = bool(step.repeat) or _row_epilogue(step, program)
        function = nest_function(step.epilogue, schedule, rows)
        used = (*function.reads, *function.writes)
        name = f"run_{case}" if not exported else f"run_{case}_{len(exported) + 1}"
        extra = ", first_row, last_row" if rows else ""
        call = [f"    {function.name}({function.arguments(names)}{extra});"]
        range_text = "long first_row, long last_row" if rows else ""
        entries.append(_exported(program, names, name, used, set(function.writes), call, range_text))
        exported[name] = "p" * len(used) + ("ll" if rows else "")
        tile = int(point.get("tile_rows", 0)) if rows and tileable(step) else 0
        launches.append(Launch(name, used, step, tile, rows))
    close()
    if not bodies:
        return "", launches, exported
    parts = [x for x in [preamble.text(), *bodies, *entries] if x]
    if any(SCALAR["f16"] in x for x in parts):
        parts.insert(0, HALF)
    return "\n\n".join(parts) + "\n", launches, exported


def _product(
    call: LibraryCall,
    program: Program,
    names: Mapping[str, str],
    blocks: Blocks,
    point: Point,
    preamble: Preamble,
    bodies: list[str],
) -> list[_Function]:
    """Print a generated product, its epilogue before it or, where that does not work row by row, after it."""
    function = f"{identifier(call.name)}_product"
    nest = call.epilogue
    if nest is None:
        text, reads, writes = print_product(call, program.buffers, names, blocks, preamble, function, None)
        bodies.append(text)
        return [_Function(function, reads, writes)]
    _check_dtypes(nest)
    rows = _row_epilogue(call, program)
    schedule = resolve(nest, point, rowwise=True)
    own = f"{identifier(nest.name)}_nest"
    schedule = evolve(schedule, parallel="none") if rows else schedule
    products = Products.of(program.nests())
    text = print_nest(nest, program.buffers, names, schedule, preamble, own, rows, products)
    read, written = parameters(nest)
    if rows:
        bodies.append(text)
        epilogue = Epilogue(own, (*read, *written), written)
        text, reads, writes = print_product(
            call, program.buffers, names, blocks, preamble, function, epilogue
        )
        bodies.append(text)
        return [_Function(function, reads, writes)]
    product, reads, writes = print_product(call, program.buffers, names, blocks, preamble, function, None)
    bodies += [product, text]
    return [_Function(function, reads, writes), _Function(own, read, written)]


def _attention(
    step: Attention,
    program: Program,
    names: Mapping[str, str],
    point: Point,
    preamble: Preamble,
    bodies: list[str],
) -> _Function:
    """Print attention, after the nests that it runs on rows."""
    blocks = attention_blocks(step, point)
    softmax, result = row_nests(step, program.buffers, blocks)
    printed: list[RowFunction] = []
    for nest in (*softmax, *(() if result is None else (result,))):
        own = f"{identifier(nest.name)}_nest"
        schedule = evolve(resolve(nest, {}, rowwise=True), parallel="none", online=0, keep=True)
        products = Products.of([nest])
        bodies.append(print_nest(nest, program.buffers, names, schedule, preamble, own, True, products))
        read, written = parameters(nest)
        printed.append(RowFunction(own, (*read, *written), nest.axes[1].extent))
    function = identifier(step.name)
    text, reads, writes = print_attention(
        step, program.buffers, names, blocks, preamble, function, printed[: len(softmax)],
        None if result is None else printed[-1],
    )  # fmt: skip
    bodies.append(text)
    return _Function(function, reads, writes)


def _row_epilogue(step: LibraryCall, program: Program) -> bool:
    """Whether the epilogue's outermost axis is the output's first dimension and a loop of its own."""
    nest = step.epilogue
    return (
        nest is not None
        and nest.outer >= 1
        and len(nest.axes) > 1
        and not step.outputs
        and tileable(step)
        and nest.axes[0].extent == program.buffers[step.output].shape[0]
    )


def _exported(
    program: Program,
    names: Mapping[str, str],
    function: str,
    buffers: tuple[str, ...],
    written: set[str],
    calls: list[str],
    extra: str,
) -> str:
    arguments = [
        f"{'' if b in written else 'const '}{STORAGE[program.buffers[b].dtype]} *{names[b]}" for b in buffers
    ]
    arguments += [extra] if extra else []
    return "\n".join([f'extern "C" void {function}({", ".join(arguments)}) {{', *calls, "}"])
