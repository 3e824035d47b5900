"""One point of a nest's schedule space, resolved against the nest it is for."""

from __future__ import annotations

from attrs import frozen

__all__ = ["Schedule"]


@frozen
class Schedule:
    """How one nest is printed.

    Args:
        vector_axis: the axis whose points fill a vector's lanes; "" for scalar code.
        lanes: elements a vector.
        unroll: vectors a step of the innermost loop (as many accumulators a reduction).
        tile: points of an outer vector axis that a task takes as its innermost loop; 0 keeps the vector axis
            outermost in the task, with every value of it in registers.
        parallel: ``outer`` (tasks), ``inner`` (the loops inside, with partial results) or ``none``.
        rows: tasks a thread takes at once; 0 splits them evenly ahead.
        threads: 0 for all.
        fuse: whether independent statements over the same axes share a loop.
        keep: whether a value that several passes need is kept in working storage, not computed again.
        stream: whether whole vectors are stored past the caches.
        prefetch: which pass of a task fetches the next task's first reads: ``none``, the ``last``, or the
            ``heavy`` one: of those that read what is in the cache already, the one that computes most. With
            ``far`` that one fetches what lies a fixed distance further in memory.
        online: elements a block of a maximum and a sum of exponentials in one pass over memory; 0: two.
        search: ``binary`` or ``linear``.
        transpose: whether operands that lie across the vector axis are transposed in registers.
    """

    vector_axis: str = ""
    lanes: int = 16
    unroll: int = 4
    tile: int = 0
    parallel: str = "outer"
    rows: int = 0
    threads: int = 0
    fuse: bool = True
    keep: bool = False
    stream: bool = False
    prefetch: str = "none"
    online: int = 0
    search: str = "binary"
    transpose: bool = False
