"""Islands with a MAP-Elites archive each: the best kernel of every way of working, and some isolation."""

from __future__ import annotations

import random

from kevolve_core.evolve.policies.behaviour import Cell, Descriptor, behaviour
from kevolve_core.evolve.policies.elites import Elite, draw, score_of
from kevolve_core.model import Candidate, Evaluation

__all__ = ["EvolutionaryPolicy"]


class _Island:
    """An archive of at most ``cells`` cells, each with its best candidate."""

    def __init__(self, cells: int) -> None:
        self._capacity = cells
        self._cells: dict[Cell, Elite] = {}

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, cell: Cell, elite: Elite) -> None:
        held = self._cells.get(cell)
        if held is not None:
            if elite < held:
                self._cells[cell] = elite
            return
        if len(self._cells) >= self._capacity:
            worst = max(self._cells, key=self._cells.__getitem__)
            if not elite < self._cells[worst]:
                return
            del self._cells[worst]
        self._cells[cell] = elite

    def best(self) -> tuple[Cell, Elite] | None:
        return min(self._cells.items(), key=lambda item: item[1], default=None)

    def pick(self, rng: random.Random) -> Elite:
        """Of a uniform cell, or the best of all in a third of the draws (estimated)."""
        ranked = sorted(self._cells.values())
        return ranked[0] if rng.random() < 1 / 3 else ranked[rng.randrange(len(ranked))]

    def pick_two(self, rng: random.Random) -> tuple[Elite, Elite]:
        first, second = sorted(rng.sample(sorted(self._cells.values()), 2))
        return first, second


class EvolutionaryPolicy:
    """Proposal ``i`` belongs to island ``i mod islands``; parents come from that island's cells.

    The first ``drafts`` proposals of each island are drafts, later ones with chance ``explore``. After every
    ``migration`` tells the best of each island is copied to the next one of the ring. ``describe`` maps a
    candidate and its evaluation to its cell. Memory is bounded by ``islands`` × ``cells``, and so is every
    call. All defaults are estimated.
    """

    name = "evolutionary"

    def __init__(
        self,
        *,
        islands: int = 4,
        cells: int = 32,
        drafts: int = 2,
        explore: float = 0.15,
        crossover: float = 0.25,
        migration: int = 40,
        describe: Descriptor = behaviour,
    ) -> None:
        self._islands = [_Island(cells) for _ in range(islands)]
        self._drafts = drafts * islands
        self._explore = explore
        self._crossover = crossover
        self._migration = migration
        self._describe = describe
        self._told = 0

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        rng = draw(self.name, seed, sequence)
        island = self._islands[sequence % len(self._islands)]
        if sequence < self._drafts or not len(island) or rng.random() < self._explore:
            return "draft", ()
        if len(island) > 1 and rng.random() < self._crossover:
            return "crossover", tuple(elite.candidate_id for elite in island.pick_two(rng))
        return "mutate", (island.pick(rng).candidate_id,)

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: the island follows from the sequence."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        self._told += 1
        score = score_of(evaluation)
        if score is not None:
            island = self._islands[sequence % len(self._islands)]
            island.add(self._describe(candidate, evaluation), Elite(-score, sequence, candidate.id))
        if self._told % self._migration == 0:
            self._migrate()

    def _migrate(self) -> None:
        leaders = [island.best() for island in self._islands]
        for n, leader in enumerate(leaders):
            if leader is not None:
                self._islands[(n + 1) % len(self._islands)].add(*leader)
