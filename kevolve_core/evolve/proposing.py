"""Getting one proposal out of a generator: parents looked up, duplicates retried, faults recorded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from attrs import frozen

from kevolve_core.errors import ProviderError, SpendingLimitError, StoreError
from kevolve_core.evolve.sameness import source_key
from kevolve_core.evolve.session import Session
from kevolve_core.evolve.steering import Order
from kevolve_core.interfaces import Proposal
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.taint import inheriting

__all__ = ["Draft", "Proposer"]

_PARENTS_KEPT = 64  # more than any shipped policy has among its likely parents at a time (estimated)


@frozen
class Draft:
    """What came of asking: a candidate (new, or the content of proposal ``duplicate_of``) or a fault."""

    candidate: Candidate | None = None
    duplicate_of: int | None = None
    attempts: int = 1
    fault: str = ""
    source_key: str = ""


class Proposer:
    """Asks the generator on behalf of the search."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._parents: OrderedDict[str, tuple[Candidate, Evaluation]] = OrderedDict()
        self.capped = ""  # the hard cap (``tokens`` or ``money``) that kept the generator from asking

    async def draw(self, sequence: int, order: Order, turn: Callable[[], Awaitable[object]]) -> Draft:
        """A draft for proposal ``sequence``. The first call of the generator may overlap others'; whether its
        content is known is decided after ``turn``, when every earlier proposal is settled. Content is also
        known where its source differs from an earlier one's in nothing that matters: the earlier one is then
        taken in its place."""
        attempts = self._session.settings.attempts
        known = Draft()
        for attempt in range(attempts):
            offered, fault = await self._offer(self._context(sequence, order, attempt))
            await turn()
            for candidate in offered:
                known = self._looked_up(candidate, attempt + 1)
                if known.duplicate_of is None:
                    return known
            if not offered:
                return known if known.candidate is not None else Draft(attempts=attempt + 1, fault=fault)
        return known

    def _looked_up(self, candidate: Candidate, attempts: int) -> Draft:
        """A new candidate, or what is stored of the same content."""
        store = self._session.store
        original = store.first_sequence(candidate.id)
        if original is not None:
            return Draft(candidate, original, attempts)
        key = source_key(candidate)
        twin = store.first_of_source(key)
        if twin is None:
            return Draft(candidate, attempts=attempts, source_key=key)
        return Draft(store.candidate(twin[0]), twin[1], attempts)

    async def _offer(self, context: Proposal) -> tuple[Sequence[Candidate], str]:
        """Candidates, or why there are none: whatever a generator raises is a recorded row, but for what
        somebody has to mend (a refused key)."""
        try:
            offered = list(await self._session.generator.propose(context, 1))
        except ProviderError as error:
            if error.fatal:
                raise
            return (), str(error)
        except SpendingLimitError as error:
            self.capped = self.capped or error.limit
            return (), str(error)
        except Exception as error:
            return (), f"{type(error).__name__}: {error}"
        if not offered:
            return (), "nothing to propose"
        strangers = [type(item).__name__ for item in offered if not isinstance(item, Candidate)]
        if strangers:
            return (), f"offered {strangers[0]} instead of a Candidate"
        return [inheriting(item, context.parents) for item in offered], ""

    def _context(self, sequence: int, order: Order, attempt: int) -> Proposal:
        known = {parent: self._parent(parent) for parent in order.parents}
        return Proposal(
            spec=self._session.spec,
            device=self._session.device,
            sequence=sequence,
            seed=self._session.settings.seed,
            operator=order.operator,
            parents=tuple(candidate for candidate, _ in known.values()),
            evaluations={parent: done for parent, (_, done) in known.items()},
            attempt=attempt,
            lane=order.lane,
            part=order.part,
            preference=order.preference,
            experience=order.experience,
            told=max(0, sequence + 1 - self._session.settings.window),
        )

    def _parent(self, candidate_id: str) -> tuple[Candidate, Evaluation]:
        if candidate_id in self._parents:
            self._parents.move_to_end(candidate_id)
            return self._parents[candidate_id]
        store = self._session.store
        evaluation = store.evaluation_of(candidate_id)
        if evaluation is None:
            raise StoreError(
                "a selection policy named a parent that has no stored evaluation",
                got=candidate_id,
                where=f"policy '{self._session.policy.name}'",
                mend="report this to the policy's author",
            )
        found = (store.candidate(candidate_id), evaluation)
        self._parents[candidate_id] = found
        if len(self._parents) > _PARENTS_KEPT:
            self._parents.popitem(last=False)
        return found
