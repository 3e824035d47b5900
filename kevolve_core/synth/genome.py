"""Genomes of synthesised candidates, and the moves between them.

A genome is JSON: ``{"generator": "synth", "language": …, "partition": {"apart": [[consumer, producer], …],
"stored": […], "epilogues": bool, "recomputed": […], "segments": bool, "channels_last": bool, "attention":
bool, "in_place": bool, "windowed": bool}, "steps": {step's name: point of its schedule space}}``. Names are
those of the reference's graph, so that a genome means the same on every case, and a step that another
partition lacks simply takes its default.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from kevolve_core.model import freeze
from kevolve_core.space import Point, Space
from kevolve_core.synth.program import Partition

__all__ = ["Genome", "crossed", "moved_partition", "moved_steps", "sampled_steps", "stepped"]

NAME = "synth"


@frozen
class Genome:
    """One point of the search: language, partition, and a schedule a step."""

    language: str
    partition: Partition = field(factory=Partition)
    steps: Mapping[str, Point] = field(factory=dict, converter=freeze, hash=False)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        p = self.partition
        unusual: dict[str, Any] = {"recomputed": sorted(p.recomputed)} if p.recomputed else {}
        if not p.segments:
            unusual["segments"] = False
        if p.channels_last:
            unusual["channels_last"] = True
        if p.attention:
            unusual["attention"] = True
        if not p.in_place:
            unusual["in_place"] = False
        if not p.windowed:
            unusual["windowed"] = False
        return {
            "generator": NAME,
            "language": self.language,
            "partition": {
                "apart": sorted([list(e) for e in p.apart]),
                "stored": sorted(p.stored),
                "epilogues": p.epilogues,
                **unusual,
            },
            "steps": {name: dict(point) for name, point in sorted(self.steps.items())},
        }

    @classmethod
    def parsed(cls, value: Mapping[str, Any] | None) -> Genome | None:
        """The genome of a candidate, or None where another generator made it."""
        if not value or value.get("generator") != NAME:
            return None
        p = value.get("partition", {})
        partition = Partition(
            frozenset((str(c), str(q)) for c, q in p.get("apart", [])),
            frozenset(str(n) for n in p.get("stored", [])),
            bool(p.get("epilogues", True)),
            frozenset(str(n) for n in p.get("recomputed", [])),
            bool(p.get("segments", True)),
            bool(p.get("channels_last", False)),
            bool(p.get("attention", False)),
            bool(p.get("in_place", True)),
            bool(p.get("windowed", True)),
        )
        return cls(str(value["language"]), partition, dict(value.get("steps", {})))


def moved_steps(
    steps: Mapping[str, Point], spaces: Mapping[str, Space], rng: random.Random, moves: int = 1
) -> dict[str, Point]:
    """``steps`` (made legal) with ``moves`` steps of one parameter each."""
    return stepped({n: s.repaired(steps.get(n, {})) for n, s in spaces.items()}, spaces, rng, moves)


def stepped(
    steps: Mapping[str, Point], spaces: Mapping[str, Space], rng: random.Random, moves: int = 1
) -> dict[str, Point]:
    """`moved_steps` of what is legal already."""
    out = dict(steps)
    names = [n for n, s in spaces.items() for p in s.parameters if len(p.choices) > 1]
    for _ in range(moves if names else 0):
        name = rng.choice(names)
        out[name] = spaces[name].neighbour(out[name], rng)
    return out


def sampled_steps(spaces: Mapping[str, Space], rng: random.Random) -> dict[str, Point]:
    """A uniform point of every space."""
    return {n: s.sample(rng) for n, s in spaces.items()}


def moved_partition(
    partition: Partition,
    edges: Sequence[tuple[str, str]],
    shared: Sequence[str],
    has_library: bool,
    rng: random.Random,
    tables: Sequence[str] = (),
    layouts: bool = False,
    attention: bool = False,
    joins: bool = False,
    windows: bool = False,
) -> Partition:
    """One graph move: cut or join an edge, keep or recompute a shared value or a table, epilogues on or off,
    channels-last memory or not (where there are ``layouts`` to choose from), attention as one step or in
    parts (where there is ``attention``), concatenations in place or not (where there are ``joins``),
    convolutions of few channels as sums or the library's (where there are ``windows``). The partition itself
    where there is no move."""
    moves: list[Partition] = [evolve(partition, apart=partition.apart | {e}) for e in edges]
    moves += [evolve(partition, apart=partition.apart - {e}) for e in sorted(partition.apart)]
    moves += [evolve(partition, stored=partition.stored | {n}) for n in shared if n not in partition.stored]
    moves += [evolve(partition, stored=partition.stored - {n}) for n in sorted(partition.stored)]
    moves += [evolve(partition, recomputed=partition.recomputed ^ {n}) for n in tables]
    if has_library:
        moves.append(evolve(partition, epilogues=not partition.epilogues))
    if layouts:
        moves.append(evolve(partition, channels_last=not partition.channels_last))
    if attention:
        moves.append(evolve(partition, attention=not partition.attention))
    if joins:
        moves.append(evolve(partition, in_place=not partition.in_place))
    if windows:
        moves.append(evolve(partition, windowed=not partition.windowed))
    return rng.choice(moves) if moves else partition


def crossed(first: Genome, second: Genome, rng: random.Random) -> Genome:
    """The first's language and partition; each step's schedule from either."""
    steps: dict[str, Point] = {}
    for name in sorted({*first.steps, *second.steps}):
        having = [g.steps[name] for g in (first, second) if name in g.steps]
        steps[name] = rng.choice(having)
    return evolve(first, steps=steps)
