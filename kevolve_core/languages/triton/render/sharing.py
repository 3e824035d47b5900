"""One kernel for steps that are alike: which those are, and what each of their launches is given."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from attrs import evolve, frozen

from kevolve_core.ir import Axis, Buffer, Load, LoopNest
from kevolve_core.languages.triton.render.contraction import Contraction
from kevolve_core.languages.triton.render.nest import Kernel
from kevolve_core.languages.triton.render.ranges import INT32
from kevolve_core.languages.triton.render.steps import Printed
from kevolve_core.languages.triton.render.words import Names
from kevolve_core.synth.alike import Likeness, Offsets, of_nest

__all__ = ["Shared", "shared"]


@frozen(eq=False)
class Shared:
    """Steps that one kernel runs.

    Args:
        first: the one whose names the kernel has.
        members: what of each is alike, by its place among a case's steps; ``first`` is the first of them.
        offsets: what they differ in.
    """

    first: Printed
    members: Mapping[int, Likeness]
    offsets: Offsets

    def kernel(
        self, buffers: Mapping[str, Buffer], names: Mapping[str, str], function: str
    ) -> Mapping[int, tuple[Kernel, tuple[int, ...]]]:
        """By place: the kernel with the step's own buffers, and the offsets that its launch is given."""
        known = next(iter(self.members.values()))
        x, nest, c = self.first, self.first.nest, self.first.product
        assert nest is not None
        if len(self.members) > 1:
            c = None if c is None else self._product(c, known)
            covers = x.covers if c is not None else nest.covers or (nest.name,)
            nest, covers = self.offsets.nest(nest, known), (*covers, self._others())
            nest = nest if c is not None else evolve(nest, covers=covers)
            x = evolve(x, nest=nest, product=c, covers=covers)
        told: list[tuple[str, Axis]] = []
        if self.offsets.axes:
            words = Names([*names.values(), *_axes(nest, c)])
            told = [(words.fresh("at"), axis) for axis in self.offsets.axes]
        made = x.kernel(buffers, names, function, told)
        if len(self.members) == 1:
            return {next(iter(self.members)): (made, ())}
        slot = {name: k for k, name in enumerate(known.buffers)}

        def of(own: Likeness) -> Kernel:
            tiles = tuple(evolve(d, buffer=own.buffers[slot[d.buffer]]) for d in made.descriptors)
            return evolve(made, buffers=tuple(own.buffers[slot[b]] for b in made.buffers), descriptors=tiles)

        members = zip(self.members.items(), self.offsets.values, strict=True)
        return {place: (of(own), values) for (place, own), values in members}

    def _others(self) -> str:
        others = len(self.members) - 1
        return f"and {others} {'others' if others > 1 else 'other'} like it"

    def _product(self, c: Contraction, known: Likeness) -> Contraction:
        def moved(e: Load) -> Load:
            found = self.offsets.value(e, known)
            assert isinstance(found, Load)
            return found

        valid = None if c.valid is None else self.offsets.value(c.valid, known)
        added = None if c.added is None else moved(c.added)
        return evolve(c, left=moved(c.left), right=moved(c.right), added=added, valid=valid)


def shared(steps: Sequence[object], buffers: Mapping[str, Buffer]) -> Mapping[int, Shared]:
    """The kernels of a case, by the place of the first step of each: a step that is like no other has one of
    its own. Only `Printed` steps that are nests or generated products share theirs."""
    found: dict[Hashable, dict[int, Likeness]] = {}
    for place, x in enumerate(steps):
        if not isinstance(x, Printed) or x.nest is None:
            continue
        own = _likeness(x, x.nest, buffers)
        alone = x.attention is not None or (x.call is not None and x.call.repeat > 0)
        point = tuple(sorted((k, repr(v)) for k, v in x.point.items()))
        key = place if alone else (own.key, x.schedule, point, _begins(x))
        found.setdefault(key, {})[place] = own
    made: dict[int, Shared] = {}
    for members in found.values():
        offsets = Offsets.of(list(members.values()))
        parts = [(members, offsets)]
        if any(a.extent > INT32[1] for a in offsets.axes):  # one binary takes integers of one width
            parts = [({k: x}, Offsets.of([x])) for k, x in members.items()]
        for own_members, own_offsets in parts:
            first = next(iter(own_members))
            x = steps[first]
            assert isinstance(x, Printed)
            made[first] = Shared(x, own_members, own_offsets)
    return made


def _begins(x: Printed) -> tuple[int, ...]:
    """Where a product's matrices begin, if it may load them through descriptors, which say so themselves."""
    if x.product is None or x.product.matrices is None or x.schedule is None:
        return ()
    return tuple(o.offset for o in x.product.matrices) if x.schedule.loads == "descriptors" else ()


def _likeness(x: Printed, nest: LoopNest, buffers: Mapping[str, Buffer]) -> Likeness:
    c = x.product
    if c is None:
        return of_nest(nest, buffers)
    axes: tuple[Axis, ...] = (*c.batch, *c.rows, *c.cols, *c.depth)
    return of_nest(nest, buffers, (c.left, c.right, c.added, c.flat, c.valid), axes)


def _axes(nest: LoopNest, c: Contraction | None) -> list[str]:
    own = () if c is None else (*c.batch, *c.rows, *c.cols, *c.depth)
    return [a.name for a in (*nest.axes, *own)]
