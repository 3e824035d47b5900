"""How the proposals of a run are shared among its generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define

from kevolve_core.evolve.policies.elites import Elites

__all__ = ["Shares"]

_FLOOR = 0.1  # share that every generator keeps, so that what got better is noticed (estimated)
_FADE = 0.98  # weight of a result after another one was told: about fifty count (estimated)
_TOKENS_AN_EVALUATION = 2000.0  # so many tokens weigh as much as one evaluation (estimated)
_TOP = 8  # a candidate that enters the best so many is a gain (estimated)


@define
class _Account:
    asked: int = 0
    recent: float = 0.0  # of those asked, faded
    gains: float = 0.5  # half a gain in one told: optimistic until something is known
    costs: float = 1.0
    told: int = 0
    successes: int = 0


class Shares:
    """Gives each proposal to one generator: in proportion to gains a cost, with a floor for each.

    A gain is a candidate among the best eight when it was told; its cost is one evaluation plus the tokens
    that its origin notes (``tokens``). Older results fade. Who is next follows from what was asked and told
    alone: the one furthest behind its share.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._accounts = {name: _Account() for name in names}
        self._best = Elites(_TOP)

    def choose(self) -> str:
        """Who makes the next proposal."""
        share, accounts = self.shares(), self._accounts
        recent = 1.0 + sum(account.recent for account in accounts.values())
        return min(accounts, key=lambda name: accounts[name].recent - share[name] * recent)

    def shares(self) -> Mapping[str, float]:
        """Share of the proposals by generator; they sum to 1."""
        worth = {name: account.gains / account.costs for name, account in self._accounts.items()}
        free, total = 1.0 - _FLOOR * len(worth), sum(worth.values())
        if free <= 0 or total <= 0:
            return {name: 1 / len(worth) for name in worth}
        return {name: _FLOOR + free * value / total for name, value in worth.items()}

    def chosen(self, name: str) -> None:
        """The next proposal went to ``name``."""
        for account in self._accounts.values():
            account.recent *= _FADE
        self._accounts[name].recent += 1.0
        self._accounts[name].asked += 1

    def told(self, name: str, sequence: int, candidate_id: str, score: float | None, tokens: float) -> None:
        """What came of a proposal of ``name``."""
        gain = score is not None and self._best.would_take(score)
        if score is not None:
            self._best.add(score, sequence, candidate_id)
        for account in self._accounts.values():
            account.gains *= _FADE
            account.costs *= _FADE
        account = self._accounts[name]
        account.gains += gain
        account.costs += 1.0 + tokens / _TOKENS_AN_EVALUATION
        account.told += 1
        account.successes += gain

    def report(self) -> Mapping[str, Mapping[str, float]]:
        """Generator -> proposals asked, told, and how many of them entered the best eight."""
        return {
            name: {"asked": a.asked, "told": a.told, "gains": a.successes}
            for name, a in self._accounts.items()
        }
