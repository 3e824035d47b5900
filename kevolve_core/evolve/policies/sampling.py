"""The two controls that every search must beat: neither learns anything."""

from __future__ import annotations

from kevolve_core.model import Candidate, Evaluation

__all__ = ["IndependentPolicy", "RandomPolicy"]


class IndependentPolicy:
    """Independent sampling: always a fresh draft, so what the generator itself knows is all there is."""

    name = "independent"

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        del sequence, seed
        return "draft", ()

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: drafts do not depend on each other."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """Nothing to learn: that is the point of a control."""


class RandomPolicy:
    """Random search: always a uniform draw from the generator's choices; of a generator that has no such
    draw, a draft."""

    name = "random"

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        del sequence, seed
        return "sample", ()

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: draws do not depend on each other."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """Nothing to learn: that is the point of a control."""
