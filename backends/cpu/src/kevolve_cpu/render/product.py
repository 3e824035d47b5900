"""Matrix products as generated code: packed panels, a register-blocked kernel, the epilogue on rows in cache.

The blocking is that of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
The right operand is packed once into panels as wide as a few vectors. A task takes a block of rows, packs it
into panels of a few rows, and multiplies every pair of panels over a stretch of the summed axis that keeps
the right panel in the L1 cache; the sums of one pair stay in registers. Where an epilogue works row by row,
it runs on the task's rows before they leave the cache, and the product itself never reaches memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from kevolve_core.ir import Buffer, LibraryCall, Operand
from kevolve_cpu.render.kinds import STORAGE
from kevolve_cpu.render.preamble import Preamble

__all__ = ["Blocks", "Epilogue", "multiplies", "operands_of", "print_product", "sizes"]

_KINDS = {"float32": "f32", "float64": "f64"}
#: variables of the function, which no parameter may be called
_LOCALS = frozenset(
    ["left", "right", "product", "left_storage", "right_storage", "product_storage", "batch", "first", "last",
     "stretch", "k", "m", "n"]
)  # fmt: skip
_SERIAL = 1 << 17  # multiplications below which starting threads costs more than it gives; estimated


@frozen
class Blocks:
    """How a product is cut.

    Args:
        lanes: elements a vector of float32; float64 has half.
        rows: rows whose sums are in registers.
        vectors: columns whose sums are in registers, in vectors.
        depth: summed elements a stretch. They are added one after another, so short ones are more exact.
            PyTorch's product was as exact as this with 384, and 1.7 times as exact as with 768.
        task: rows a task, at least.
    """

    lanes: int = 16
    rows: int = 12
    vectors: int = 2
    depth: int = 384
    task: int = 192


@frozen
class Epilogue:
    """The function that takes a task's rows (a batch's matrix where there are batches): its name and the
    buffers it is given, and those of them that it writes."""

    function: str
    buffers: tuple[str, ...]
    writes: tuple[str, ...]


def multiplies(call: LibraryCall, buffers: Mapping[str, Buffer] | None = None) -> str:
    """Empty where ``call`` is a product that can be generated, else why not. What ``buffers`` hold is asked
    only where they are given."""
    if call.op not in ("aten::mm", "aten::bmm") or call.attributes or len(call.operands) != 2:
        return "only mm and bmm are generated"
    if call.repeat or call.outputs:
        return "a recurrence keeps the library's product"
    left, right = call.operands
    batch, rows, columns, depth = sizes(call)
    if 0 in (batch, rows, columns, depth):
        return "the product is empty"
    if rows == 1 or columns == 1:
        return "a product with a vector uses every element of the matrix once: blocks gain nothing"
    if left.buffer == call.output or right.buffer == call.output:
        return "the product is made in place"
    if buffers is not None:
        types = {buffers[b].dtype for b in (left.buffer, right.buffer, call.output)}
        if len(types) > 1 or not types <= set(_KINDS):
            return "only products of float32 and of float64 are generated"
        if buffers[call.output].stride != Buffer("", buffers[call.output].shape, "float32", "temp").stride:
            return "the product is not contiguous"
    return ""


def sizes(call: LibraryCall) -> tuple[int, int, int, int]:
    """(batches, rows, columns, summed elements)."""
    left, right = call.operands
    return (left.shape[0] if len(left.shape) == 3 else 1), left.shape[-2], right.shape[-1], left.shape[-1]


def operands_of(call: LibraryCall) -> tuple[str, ...]:
    """Buffers that the product reads."""
    return tuple(dict.fromkeys(o.buffer for o in call.operands))


def print_product(
    call: LibraryCall,
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str],
    blocks: Blocks,
    preamble: Preamble,
    function: str,
    epilogue: Epilogue | None,
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The text of ``static void function(…)``, the buffers it reads and those it writes: the parameters are
    the former, then the latter. With an epilogue the output is working storage of the function."""
    batch, rows, columns, depth = sizes(call)
    names = {b: f"{n}_given" if n in _LOCALS else n for b, n in names.items()}
    dtype = buffers[call.output].dtype
    scalar = STORAGE[dtype]
    lanes = blocks.lanes if dtype == "float32" else max(2, blocks.lanes // 2)
    vector = preamble.vector(_KINDS[dtype], lanes)
    for helper in ("pack", "multiply", "panels"):
        preamble.need(helper)
    width = blocks.vectors * lanes
    stretch = min(depth, blocks.depth)
    batched = len(call.operands[0].shape) == 3
    task = rows if batched else _task_rows(rows, blocks)
    wide = -(-columns // width) * width
    reads = tuple(dict.fromkeys((*operands_of(call), *_extra(epilogue, call.output))))
    writes = epilogue.writes if epilogue is not None else (call.output,)
    left, right = call.operands
    arguments = [f"const {STORAGE[buffers[b].dtype]} *__restrict {names[b]}" for b in reads]
    arguments += [f"{STORAGE[buffers[b].dtype]} *__restrict {names[b]}" for b in writes]
    most = f"stretch, product + (m - first) * {columns} + n, {columns}, last - m, {columns} - n, k > 0"
    lines = [
        f"// product: {', '.join(call.covers) or call.name}",
        f"// {f'{batch} times ' if batched else ''}{rows} x {columns} x {depth}, "
        f"in blocks of {blocks.rows} x {width} x {stretch}",
        f"static void {function}({', '.join(arguments)}) {{",
    ]
    parallel = batch * rows * columns * depth >= _SERIAL
    part = _least(f"{depth} - k", stretch, depth)
    pack_right = [
        f"const Panels<{scalar}> right_storage({wide * depth}L);",
        f"{scalar} *const right = right_storage.data;",
        *(["#pragma omp parallel for schedule(static)"] if parallel and not batched else []),
        f"for (long n = 0; n < {columns}; n += {width})",
        f"    for (long k = 0; k < {depth}; k += {stretch})",
        f"        pack<{width}>({_at(right, names, 'k', 'n')}, {right.strides[-1]}, "
        f"{right.strides[-2]}, {columns} - n, {part},",
        f"            right + k * {wide} + n * {part});",
    ]
    storage = [
        f"const Panels<{scalar}> left_storage({-(-task // blocks.rows) * blocks.rows * stretch}L);",
        f"{scalar} *const left = left_storage.data;",
    ]
    if epilogue is not None:
        storage += [
            f"const Panels<{scalar}> product_storage({task * columns}L);",
            f"{scalar} *const product = product_storage.data;",
        ]
    else:
        start = f"batch * {rows * columns}L" if batched else f"first * {columns}L"
        storage.append(f"{scalar} *const product = {names[call.output]} + {start};")
    body = [
        f"for (long k = 0; k < {depth}; k += {stretch}) {{",
        f"    const long stretch = {part};",
        f"    for (long m = first; m < last; m += {blocks.rows})",
        f"        pack<{blocks.rows}>({_at(left, names, 'm', 'k')}, {left.strides[-2]}, "
        f"{left.strides[-1]}, last - m, stretch,",
        "            left + (m - first) * stretch);",
        f"    for (long n = 0; n < {columns}; n += {width})",
        f"        for (long m = first; m < last; m += {blocks.rows})",
        f"            multiply<{vector}, {blocks.rows}, {blocks.vectors}>(left + (m - first) * stretch, "
        f"right + k * {wide} + n * stretch,",
        f"                {most});",
        "}",
    ]
    if epilogue is not None:
        begin, end, size = ("batch", "batch + 1", rows) if batched else ("first", "last", 1)
        moved = f"product - {begin} * {size * columns}L"
        given = [moved if b == call.output else names[b] for b in epilogue.buffers]
        body.append(f"{epilogue.function}({', '.join([*given, begin, end])});")
    if batched:
        task_lines = [*pack_right, f"const long first = 0, last = {rows};", *storage, *body]
        header = f"for (long batch = 0; batch < {batch}; ++batch) {{"
    else:
        lines += [_indented(x, 1) for x in pack_right]
        stop = f"first + {task}"
        stop = f"{stop} < {rows} ? {stop} : {rows}" if rows % task else stop
        task_lines = [f"const long last = {stop};", *storage, *body]
        header = f"for (long first = 0; first < {rows}; first += {task}) {{"
    if parallel and (batch > 1 if batched else task < rows):
        lines.append("#pragma omp parallel for schedule(dynamic)")
    lines += [f"    {header}", *(_indented(x, 2) for x in task_lines), "    }", "}"]
    return "\n".join(lines), tuple(b for b in reads if b not in writes), writes


def _indented(line: str, depth: int) -> str:
    return line if line.startswith("#") else "    " * depth + line


def _extra(epilogue: Epilogue | None, output: str) -> tuple[str, ...]:
    if epilogue is None:
        return ()
    return tuple(b for b in epilogue.buffers if b != output and b not in epilogue.writes)


def _task_rows(rows: int, blocks: Blocks) -> int:
    """Rows a task: as many tasks as `Blocks.task` asks for, or one more so that they are even in number as
    cores are, of nearly the same size."""
    tasks = -(-rows // blocks.task)
    tasks += tasks % 2 if tasks > 1 else 0
    share = -(-rows // tasks)
    return -(-share // blocks.rows) * blocks.rows


def _least(a: str, b: int, extent: int) -> str:
    """The smaller of the rest ``a`` and block ``b``, which is always ``b`` where it divides ``extent``."""
    return str(b) if extent % b == 0 else f"({a} < {b} ? {a} : {b})"


def _at(operand: Operand, names: Mapping[str, str], row: str, column: str) -> str:
    """The address of an operand's element."""
    terms = [names[operand.buffer]]
    if len(operand.shape) == 3 and operand.strides[0]:
        terms.append(f"batch * {operand.strides[0]}L")
    for axis, step in ((row, operand.strides[-2]), (column, operand.strides[-1])):
        if step:
            terms.append(axis if step == 1 else f"{axis} * {step}L")
    if operand.offset:
        terms.append(str(operand.offset))
    return " + ".join(terms)
