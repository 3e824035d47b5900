"""Selection policies: who is asked for, and from which parents. Start at `make_policy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kevolve_core.errors import ConfigError, UnknownNameError, suggest
from kevolve_core.evolve.policies.evolutionary import EvolutionaryPolicy
from kevolve_core.evolve.policies.greedy import GreedyPolicy
from kevolve_core.evolve.policies.mcts import MctsPolicy
from kevolve_core.evolve.policies.sampling import IndependentPolicy, RandomPolicy
from kevolve_core.evolve.policies.surrogate import SurrogatePolicy
from kevolve_core.interfaces import SelectionPolicy

__all__ = [
    "POLICIES",
    "EvolutionaryPolicy",
    "GreedyPolicy",
    "IndependentPolicy",
    "MctsPolicy",
    "RandomPolicy",
    "SurrogatePolicy",
    "make_policy",
]

#: The policies that ship, by name.
POLICIES: Mapping[str, Callable[..., SelectionPolicy]] = MappingProxyType(
    {
        "evolutionary": EvolutionaryPolicy,
        "greedy": GreedyPolicy,
        "independent": IndependentPolicy,
        "mcts": MctsPolicy,
        "random": RandomPolicy,
        "surrogate": SurrogatePolicy,
    }
)


def make_policy(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    known: Mapping[str, Callable[..., SelectionPolicy]] = POLICIES,
) -> SelectionPolicy:
    """A fresh policy by name, from ``known`` (those that ship, or a registry's).

    Raises:
        UnknownNameError: no policy of that name; lists those there are.
        ConfigError: an option it does not take.
    """
    if name not in known:
        raise UnknownNameError(
            "there is no selection policy of this name",
            got=name,
            mend=" ".join(filter(None, (suggest(name, known), f"use one of: {', '.join(sorted(known))}"))),
        )
    try:
        return known[name](**(options or {}))
    except TypeError as error:
        raise ConfigError(
            f"the selection policy '{name}' does not take these options", got=error, mend="see its docstring"
        ) from error
