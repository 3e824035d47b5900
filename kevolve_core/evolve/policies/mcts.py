"""Monte Carlo tree search over who was made from whom."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict

from attrs import define, field

from kevolve_core.evolve.policies.elites import draw, score_of
from kevolve_core.model import Candidate, Evaluation

__all__ = ["MctsPolicy"]


@define(eq=False)
class _Node:
    """A candidate, or the root (no candidate) whose children are the drafts."""

    candidate_id: str
    parent: _Node | None
    score: float
    sequence: int
    visits: int = 1  # proposals told below and at this node
    losses: int = 0  # … and those asked for but not told yet
    best: float = 0.0  # best score below and at this node
    children: list[_Node] = field(factory=list)


class MctsPolicy:
    """Upper confidence bounds for trees (Kocsis and Szepesvári 2006, https://doi.org/10.1007/11871842_29),
    with progressive widening (Coulom 2007): a node is given another child while it has fewer than
    ``widening`` × visits^½, else its best child by bound is entered. A new child of the root is a draft, of
    any other node a mutation of it.

    A node is worth the best score below it, as a rank among all scores kept, so that the bound's scale fits
    whatever the scores' is. Proposals in flight count as visits without gain (virtual loss), which keeps
    them apart. At most ``nodes`` are kept; the worst leaf goes first. Defaults are estimated; ``exploration``
    was chosen among three values on recorded tuning spaces (benchmarks/search_replay.py). It is far below the
    1/√2 of Kocsis and Szepesvári's analysis, which is for means of rewards: a best score does not fall with
    bad luck below it.

    Args:
        drafts: the first proposals are drafts.
    """

    name = "mcts"

    def __init__(
        self, *, drafts: int = 8, exploration: float = 0.1, widening: float = 1.5, nodes: int = 1024
    ) -> None:
        self._drafts, self._exploration, self._widening, self._capacity = drafts, exploration, widening, nodes
        self._root = _Node("", None, 0.0, -1, visits=0)
        self._nodes: dict[str, _Node] = {}
        self._leaves: list[tuple[float, int, str]] = []  # a heap: worst first, the later among equals
        self._flying: OrderedDict[int, str] = OrderedDict()  # sequence -> node it was asked for at
        self._low = self._high = 0.0

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        if sequence < self._drafts or not self._nodes:
            return "draft", ()
        rng = draw(self.name, seed, sequence)
        node = self._root
        while node.children and len(node.children) >= self._widening * math.sqrt(node.visits + node.losses):
            noise = rng.random  # breaks ties
            node = max(node.children, key=lambda child: (self._bound(node, child), noise()))
        return ("draft", ()) if node is self._root else ("mutate", (node.candidate_id,))

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        del operator  # parents say it
        at = parents[0] if parents and parents[0] in self._nodes else ""
        self._flying[sequence] = at
        self._add_losses(at, 1)
        if len(self._flying) > self._capacity:  # faults are never told
            self._land(next(iter(self._flying)))

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        at = self._land(sequence) if sequence in self._flying else next(iter(candidate.parents), "")
        score = score_of(evaluation)
        if score is not None and candidate.id not in self._nodes:
            self._grow(self._nodes.get(at, self._root), candidate.id, score, sequence)
            return
        node: _Node | None = self._nodes.get(at, self._root)
        while node is not None:
            node.visits += 1
            node = node.parent

    def _land(self, sequence: int) -> str:
        at = self._flying.pop(sequence, "")
        self._add_losses(at, -1)
        return at

    def _add_losses(self, at: str, change: int) -> None:
        node: _Node | None = self._nodes.get(at, self._root)
        while node is not None:
            node.losses = max(0, node.losses + change)
            node = node.parent

    def _grow(self, parent: _Node, candidate_id: str, score: float, sequence: int) -> None:
        node = _Node(candidate_id, parent, score, sequence, best=score)
        parent.children.append(node)
        self._nodes[candidate_id] = node
        heapq.heappush(self._leaves, (score, -sequence, candidate_id))
        self._high = score if len(self._nodes) == 1 else max(self._high, score)
        self._low = score if len(self._nodes) == 1 else min(self._low, score)
        above: _Node | None = parent
        while above is not None:
            above.visits += 1
            above.best = max(above.best, score)
            above = above.parent
        while len(self._nodes) > self._capacity and self._leaves:
            self._prune()

    def _prune(self) -> None:
        """Drop the worst leaf; a node that has children comes back when it is one."""
        _, _, name = heapq.heappop(self._leaves)
        node = self._nodes.get(name)
        if node is None or node.children:
            return
        del self._nodes[name]
        parent = node.parent
        assert parent is not None  # only the root has none, and it is in no heap
        parent.children.remove(node)
        if parent is not self._root and not parent.children:
            heapq.heappush(self._leaves, (parent.score, -parent.sequence, parent.candidate_id))

    def _bound(self, node: _Node, child: _Node) -> float:
        span = self._high - self._low
        worth = (child.best - self._low) / span if span > 0 else 0.5
        visits = child.visits + child.losses
        return worth * child.visits / visits + self._exploration * math.sqrt(
            math.log(1 + node.visits + node.losses) / visits
        )
