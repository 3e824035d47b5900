"""Library calls and the nests that read what they return: which nest runs as a call's epilogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve

from kevolve_core.ir import Buffer, LibraryCall, Load, LoopNest, Single, address, walk

__all__ = ["followed"]


def followed(
    calls: Sequence[LibraryCall], nests: Sequence[LoopNest], buffers: Mapping[str, Buffer]
) -> Iterator[Single]:
    """``calls``, whose results only ``nests`` read, and these, in order: a nest that alone reads the result
    of a call is its epilogue where it can be."""
    readers = {c.name: [n.name for n in nests if c.output in n.reads()] for c in calls}
    yield from (c for c in calls if len(readers[c.name]) != 1)
    for nest in nests:
        mine = [c for c in calls if readers[c.name] == [nest.name]]
        yield from mine[1:]
        touched = {o.buffer for c in mine[:1] for o in c.operands}
        if mine and touched.isdisjoint(nest.writes()) and _tiles(mine[0], nest, buffers[mine[0].output]):
            yield evolve(mine[0], epilogue=nest)
            continue
        yield from mine[:1]
        yield nest


def _tiles(call: LibraryCall, nest: LoopNest, buffer: Buffer) -> bool:
    """Whether every read of the call's output, ``buffer``, stays in the row of the nest's first axis."""
    shape = buffer.shape
    if not nest.outer or nest.axes[0].extent != shape[0] or buffer.strides is not None:
        return False
    row = buffer.size // shape[0]
    first = nest.axes[0].name
    for e in nest.expressions():
        for n in walk(e):
            if isinstance(n, Load) and n.buffer == call.output:
                form = address(n, buffer)
                if form is None or form[1].get(first, 0) != row:
                    return False
                rest = form[0] + sum(c * (nest.extent(a) - 1) for a, c in form[1].items() if a != first)
                if form[0] < 0 or rest >= row or any(c < 0 for c in form[1].values()):
                    return False
    return True
