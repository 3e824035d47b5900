"""Which values are worth memory: costly functions of a few positions that many elements share, and landings
of long chains.

The angles of a rotary embedding, a window, a positional encoding: small tensors of transcendental functions,
broadcast along the slow axes of what reads them. Computed where they are read, they would be computed again
for every row; kept in memory they are read from a cache. What is broadcast along the fastest axis (the
statistics of a row) needs no table: a loop nest computes it outside its innermost loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from kevolve_core.ir import COSTLY, Index, Load, Op, walk
from kevolve_core.synth.lower import Def

__all__ = ["landings", "tables"]

#: A table is read at least so often an element, and has at most so many elements. Estimated: a function of
#: twenty operations against a store and loads from the second-level cache.
REUSE, LARGEST = 8, 1 << 18
#: Definitions that are inlined into one another, one inside the other: walks over them recurse. Estimated:
#: half of what Python's default limit allows.
DEEPEST = 80


def tables(defs: Mapping[str, Def], extents: Mapping[str, int], results: Iterable[str]) -> frozenset[str]:
    """Pointwise definitions that a program with ``results`` had better keep in memory; ``extents`` are those
    of all axes."""
    readers: dict[str, list[tuple[Def, Load]]] = {}
    for d in defs.values():
        for e in walk(d.value) if d.value is not None else ():
            if isinstance(e, Load):
                readers.setdefault(e.buffer, []).append((d, e))
    kept = set(results)
    points: dict[str, int] = {}
    for name in reversed(list(defs)):  # readers come after what they read
        d = defs[name]
        read = [points[r.name] for r, _ in readers.get(name, ()) if r.name in points]
        own = d.size * math.prod(extents[a] for a in d.raxes if Index(a) not in d.axes)
        points[name] = own if d.kind != "point" or name in kept else max([own, *read])
    return frozenset(
        d.name
        for d in defs.values()
        if d.kind == "point"
        and d.name not in kept
        and 0 < d.size <= LARGEST
        and points[d.name] >= REUSE * d.size
        and _costly(d)
        and any(_along_rows(r, e) for r, e in readers.get(d.name, ()))
    )


def _costly(d: Def) -> bool:
    return d.value is not None and any(isinstance(e, Op) and e.name in COSTLY for e in walk(d.value))


def _along_rows(reader: Def, load: Load) -> bool:
    """Whether the position read moves with the fastest axis of its reader."""
    axes = (*reader.free, *reader.raxes)
    return bool(axes) and any(Index(axes[-1]) in walk(i) for i in load.index)


def landings(defs: Mapping[str, Def], kept: Iterable[str]) -> frozenset[str]:
    """Pointwise definitions to keep in memory so that none is inlined deeper than `DEEPEST`: an unrolled
    recurrence of hundreds of steps is one chain. ``kept`` are in memory already."""
    landed = set(kept)
    depth: dict[str, int] = {}
    found: set[str] = set()
    for name, d in defs.items():  # what is read comes before its readers
        if d.kind != "point" or d.value is None:
            continue
        inside = [depth.get(e.buffer, 0) for e in walk(d.value) if isinstance(e, Load)]
        depth[name] = 1 + max(inside, default=0)
        if depth[name] > DEEPEST or name in landed:
            found |= {name} - landed
            depth[name] = 0
    return frozenset(found)
