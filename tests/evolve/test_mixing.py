"""Mixes: who answers, what the tuner makes of a declared tunable, and what parts have beside `propose`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from evolve_fakes import DEVICE, SPEC, judge

from kevolve_core.evolve import MixedGenerator, Usage
from kevolve_core.interfaces import Proposal
from kevolve_core.model import Candidate, Evaluation, Origin
from kevolve_core.tunables import declared

TEXT = 'KEVOLVE_TUNABLES = {"B": [1, 2, 4, 8]}\nB = 2\n'


class Writer:
    """Writes one kernel with a tunable."""

    def __init__(self, name: str, text: str = TEXT) -> None:
        self.name = name
        self.text = text
        self.told: list[int] = []
        self.log: list[str] = []

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        del n
        origin = Origin(self.name, context.operator)
        return [Candidate({"k.py": self.text}, "k.py", "fake", origin=origin)]

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        del candidate, evaluation
        self.told.append(sequence)

    def open(self, run: Path, *, tokens: int | None = None, money: float | None = None) -> None:
        self.log.append(f"open {run} {tokens} {money}")

    async def close(self) -> None:
        self.log.append("close")

    def usage(self) -> Usage:
        return Usage(5, 0.5)


def proposed(mix: MixedGenerator, **context: object) -> Candidate:
    given = Proposal(SPEC, DEVICE, **{"sequence": 0, "seed": 0, **context})  # type: ignore[arg-type]
    return asyncio.run(mix.propose(given, 1))[0]


def test_the_named_part_answers() -> None:
    mix = MixedGenerator({"a": Writer("a"), "b": Writer("b")})
    assert (mix.name, mix.parts) == ("a+b", ("a", "b", "tuner"))
    assert [proposed(mix, part=part).origin.generator for part in ("a", "b")] == ["a", "b"]


def test_the_tuner_sets_numbers_and_keeps_the_structure() -> None:
    mix = MixedGenerator({"a": Writer("a")})
    parent = proposed(mix, part="a")
    made = proposed(mix, part="tuner", operator="mutate", parents=(parent,), sequence=5)
    before, after = declared(parent), declared(made)
    assert before is not None
    assert after is not None
    assert (made.origin.generator, made.parents) == ("tuner", (parent.id,))
    assert after.structure == before.structure
    assert after.space.default()["B"] in {1, 4, 8}


def test_the_tuner_takes_what_the_policy_prefers() -> None:
    mix = MixedGenerator({"a": Writer("a")})
    parent = proposed(mix, part="a")
    made = proposed(
        mix,
        part="tuner",
        operator="mutate",
        parents=(parent,),
        preference=lambda genomes: [float(genome["point"]["B"]) for genome in genomes],
    )
    assert made.files["k.py"] == TEXT.replace("B = 2", "B = 8")


def test_where_there_is_nothing_to_tune_the_parents_generator_answers() -> None:
    mix = MixedGenerator({"a": Writer("a"), "b": Writer("b", "B = 1\n")})
    parent = proposed(mix, part="b")
    assert proposed(mix, part="tuner", operator="mutate", parents=(parent,)).origin.generator == "b"
    assert proposed(mix, part="tuner", operator="draft").origin.generator == "a"


def test_a_candidate_with_tunables_gets_its_point_as_genome() -> None:
    made = proposed(MixedGenerator({"a": Writer("a")}), part="a")
    assert made.genome is not None
    assert made.genome["point"] == {"B": 2}
    broken = Writer("b", TEXT.replace("B = 2", "B = 3"))
    assert proposed(MixedGenerator({"b": broken}), part="b").genome is None


def test_everything_else_goes_to_every_part() -> None:
    parts = {"a": Writer("a"), "b": Writer("b")}
    mix = MixedGenerator(parts)
    mix.open(Path("run"), tokens=9)
    mix.tell(3, Candidate({"k.py": ""}, "k.py", "fake"), judge("x", ("quick",)))
    asyncio.run(mix.close())
    assert [part.told for part in parts.values()] == [[3], [3]]
    assert [part.log for part in parts.values()] == [["open run 9 None", "close"]] * 2
    assert mix.usage() == Usage(10, 1.0)
