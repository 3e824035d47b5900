"""Independent sampling: the control that every search must beat."""

from __future__ import annotations

from kevolve_core.model import Candidate, Evaluation

__all__ = ["RandomPolicy"]


class RandomPolicy:
    """Always a fresh draft; learns nothing."""

    name = "random"

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        del sequence, seed
        return "draft", ()

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: drafts do not depend on each other."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """Nothing to learn: that is the point of a control."""
