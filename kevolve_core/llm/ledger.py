"""Tokens and money of a run, with hard caps that hold for requests in flight too."""

from __future__ import annotations

import asyncio

from attrs import define, frozen

from kevolve_core.errors import SpendingLimitError

__all__ = ["Cost", "Ledger", "Reservation"]


@frozen
class Cost:
    """Tokens (prompt and reply) and money."""

    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.money + other.money)


@define(eq=False)
class Reservation:
    """What an attempt in flight may cost at most."""

    bound: Cost
    open: bool = True


class Ledger:
    """What was spent and what is in flight never exceed the caps together.

    An attempt is sent only after `reserve` has set aside its upper bound; `settle` replaces that by what it
    cost. Belongs to one event loop.

    Args:
        tokens, money: caps over the whole run; None for none.
        spent: what earlier sittings cost, at most.
    """

    def __init__(
        self, *, tokens: int | None = None, money: float | None = None, spent: Cost | None = None
    ) -> None:
        self._tokens, self._money = tokens, money
        self.spent = spent or Cost()
        self._flying: set[Reservation] = set()
        self._changed = asyncio.Event()

    @property
    def in_flight(self) -> Cost:
        """Upper bound of what is in flight."""
        return sum((r.bound for r in self._flying), Cost())

    async def reserve(self, bound: Cost) -> Reservation:
        """Set ``bound`` aside; waits while requests in flight may turn out cheap enough to make room.

        Raises:
            SpendingLimitError: it does not fit under a cap, whatever those in flight cost.
        """
        while True:
            limit = self._exceeded(self.spent + bound)
            if limit:
                raise self._refusal(limit, bound)
            if not self._exceeded(self.spent + self.in_flight + bound):
                break
            self._changed.clear()
            await self._changed.wait()
        made = Reservation(bound)
        self._flying.add(made)
        return made

    def settle(self, reservation: Reservation, cost: Cost) -> None:
        """The attempt ended and cost so much. A second call for one reservation does nothing."""
        if reservation.open:
            reservation.open = False
            self._flying.discard(reservation)
            self.spent = self.spent + cost
            self._changed.set()

    def _exceeded(self, cost: Cost) -> str:
        if self._tokens is not None and cost.tokens > self._tokens:
            return "tokens"
        return "money" if self._money is not None and cost.money > self._money else ""

    def _refusal(self, limit: str, bound: Cost) -> SpendingLimitError:
        if limit == "tokens":
            got = (
                f"{self.spent.tokens} of {self._tokens} tokens are spent; the request may take {bound.tokens}"
            )
        else:
            spent, cap = f"{self.spent.money:.4f}", f"{self._money:.4f}"
            got = f"{spent} of {cap} are spent; the request may cost {bound.money:.4f}"
        return SpendingLimitError(
            f"the budget of {limit} leaves no room for another request",
            limit=limit,
            got=got,
            mend="raise it (--max-tokens, --max-money) and `kevolve resume`, or lower max_output_tokens",
        )
