"""One proposal in flight."""

from __future__ import annotations

import asyncio

from attrs import define, field

from kevolve_core.evolve.steering import Order
from kevolve_core.model import Candidate, Evaluation

__all__ = ["Slot"]


@define(eq=False)
class Slot:
    """What the search knows of a proposal between asking for it and telling its evaluation.

    ``turn`` is set once every earlier proposal is settled, ``closed`` once nothing more comes of this one.
    """

    sequence: int
    order: Order
    candidate: Candidate | None = None
    candidate_id: str | None = None
    duplicate_of: int | None = None
    evaluation: Evaluation | None = None
    settled: bool = False
    turn: asyncio.Event = field(factory=asyncio.Event)
    closed: asyncio.Event = field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
