"""Library calls and the nests that read what they return: which nest runs as a call's epilogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from attrs import evolve, frozen

from kevolve_core.ir import Buffer, LibraryCall, Load, LoopNest, Single, address, walk

__all__ = ["Part", "followed"]


@frozen
class Part:
    """The ``nests`` of a group, or of a part of one; where it ``follows``, the one that may be an epilogue,
    and ``after``, what stands in its place where it cannot."""

    nests: tuple[LoopNest, ...]
    follows: bool
    after: Callable[[LoopNest], LoopNest]


def followed(
    calls: Sequence[LibraryCall], parts: Sequence[Part], buffers: Mapping[str, Buffer]
) -> Iterator[Single]:
    """``calls``, whose results only ``parts`` read, and the nests of these, in order: a nest that alone reads
    the result of a call is its epilogue where it can be."""
    readers = {
        c.name: [k for k, p in enumerate(parts) if any(c.output in n.reads() for n in p.nests)] for c in calls
    }
    yield from (c for c in calls if len(readers[c.name]) != 1)
    for k, part in enumerate(parts):
        mine = [c for c in calls if readers[c.name] == [k]]
        yield from mine[1:]
        touched = {o.buffer for c in mine[:1] for o in c.operands}
        for nest in part.nests if part.follows else ():
            apart = touched.isdisjoint(nest.writes())
            if mine and apart and _tiles(mine[0], nest, buffers[mine[0].output]):
                yield evolve(mine[0], epilogue=nest)
            else:
                yield from mine[:1]
                yield part.after(nest)
        if not part.follows:
            yield from mine[:1]
            yield from part.nests


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
