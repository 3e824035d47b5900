"""`SynthGenerator` with a renderer that prints the program as text."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from attrs import evolve, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.interfaces import Proposal
from kevolve_core.ir import Attention, LibraryCall, Program, Step
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Precision, Reference
from kevolve_core.model import Candidate, Device, Target
from kevolve_core.serial import dumps, loads
from kevolve_core.space import Constraint, Parameter, Point, Space
from kevolve_core.synth.generator import SynthGenerator
from kevolve_core.synth.genome import Genome, moved_partition
from kevolve_core.synth.program import Partition
from kevolve_core.synth.reference import graph_of

SOURCE = """
import torch
import torch.nn.functional as F

def f(x, w):
    return F.softmax(torch.relu(x) @ w, -1).sum(0)
"""
SPEC = KernelSpec(
    "f",
    Reference(SOURCE, "f"),
    (
        Case("a", (InputSpec("x", (9, 7)), InputSpec("w", (7, 5)))),
        Case("b", (InputSpec("x", (3, 4)), InputSpec("w", (4, 6))), role="holdout"),
    ),
)
DEVICE = Device("null:0", "null", "null", Target("null", "none"))


@frozen
class Printer:
    """Prints steps and choices; refuses steps whose name has ``refused`` in it."""

    language: str = "text"
    refused: str = "?"

    def supports(self, step: Step) -> str:
        return "it may not" if self.refused in step.name else ""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        text = "\n".join([repr([s for p in programs for s in p.steps]), repr(sorted(choices.items()))])
        calls = {s.op for p in programs for s in p.steps if isinstance(s, LibraryCall)}
        return Candidate(
            {"kernel.py": text}, "kernel.py", self.language, spec.reference.symbol, libraries=tuple(calls)
        )


def space(step: Step, device: Device, language: str) -> Space:
    del step, device, language
    return Space(
        (Parameter("tile", (1, 2, 4, 8), 2), Parameter("unroll", (1, 2, 4), 1)),
        (Constraint("tile times unroll at most 16", lambda p: p["tile"] * p["unroll"] <= 16),),
    )


def generator(**renderers: Any) -> SynthGenerator:
    return SynthGenerator(SPEC, renderers or {"text": Printer()}, space, DEVICE)


def proposal(sequence: int, operator: str = "draft", *parents: Candidate, attempt: int = 0) -> Proposal:
    return Proposal(SPEC, DEVICE, sequence, 7, operator, parents, attempt=attempt)


def propose(context: Proposal, n: int = 1) -> list[Candidate]:
    return list(asyncio.run(generator().propose(context, n)))


def test_draft_zero_is_the_default_point_with_everything_fused() -> None:
    (candidate,) = propose(proposal(0))
    genome = Genome.parsed(candidate.genome)
    assert genome is not None
    assert not genome.partition.apart
    assert all(dict(point) == {"tile": 2, "unroll": 1} for point in genome.steps.values())


@pytest.mark.parametrize("operator", ["draft", "mutate", "crossover"])
def test_the_same_proposal_gives_the_same_candidates(operator: str) -> None:
    parents = propose(proposal(3), 2)
    first = propose(proposal(5, operator, *parents), 3)
    assert [c.id for c in first] == [c.id for c in propose(proposal(5, operator, *parents), 3)]


def test_another_attempt_gives_another_candidate() -> None:
    parent = propose(proposal(0))
    ids = {propose(proposal(5, "mutate", *parent, attempt=k))[0].id for k in range(6)}
    assert len(ids) > 3


def test_candidates_of_one_proposal_differ_from_one_another_and_from_the_parents() -> None:
    parent = propose(proposal(0))
    found = propose(proposal(1, "mutate", *parent), 8)
    assert len({c.id for c in found} | {parent[0].id}) == 9


def test_crossover_takes_each_step_from_a_parent() -> None:
    a, b = propose(proposal(3), 2)
    (child,) = propose(proposal(4, "crossover", a, b))
    assert child.parents == (a.id, b.id)
    genomes = [Genome.parsed(c.genome) for c in (a, b, child)]
    for name, point in genomes[2].steps.items():  # type: ignore[union-attr]
        assert point in [g.steps[name] for g in genomes[:2] if g is not None and name in g.steps]


def test_every_point_proposed_is_legal() -> None:
    for sequence in range(12):
        genome = Genome.parsed(propose(proposal(sequence))[0].genome)
        assert genome is not None
        for point in genome.steps.values():
            assert space(None, DEVICE, "text").is_legal(point)  # type: ignore[arg-type]


def test_a_parent_of_another_generator_leads_to_a_draft() -> None:
    foreign = Candidate({"kernel.py": ""}, "kernel.py", "text")
    assert len(propose(proposal(2, "mutate", foreign))) == 1


def test_library_calls_are_declared() -> None:
    assert propose(proposal(0))[0].libraries == ("aten::mm",)


def test_a_genome_survives_storage() -> None:
    (candidate,) = propose(proposal(6))
    again = loads(Candidate, dumps(candidate))
    assert Genome.parsed(again.genome) == Genome.parsed(candidate.genome)


def test_partitions_are_searched_too() -> None:
    parent = propose(proposal(0))
    moved = [Genome.parsed(propose(proposal(k, "mutate", *parent))[0].genome) for k in range(1, 30)]
    assert len({g.partition for g in moved if g is not None}) > 1


def test_a_language_that_cannot_print_a_step_is_passed_over() -> None:
    able = generator(broken=Printer("broken", "k_"), text=Printer())
    assert asyncio.run(able.propose(proposal(0), 1))[0].language == "text"


def test_no_able_language_names_the_step_and_the_reason() -> None:
    with pytest.raises(UnsupportedError, match="it may not"):
        asyncio.run(generator(broken=Printer("broken", "k_")).propose(proposal(0), 1))


def test_work_counts_inputs_and_outputs_once_and_products_apart() -> None:
    work = generator().work()["a"]
    assert work.bytes == 4 * (9 * 7 + 7 * 5 + 5)
    assert work.library_flops == 2 * 9 * 7 * 5


def experienced(steps: Mapping[str, Point]) -> Mapping[str, Any]:
    """The steps of a draft that starts from experience with ``steps``."""
    recorded = {"generator": "synth", "language": "text", "steps": steps}
    proposal = Proposal(SPEC, DEVICE, 3, 0, lane="warm", experience=(recorded,))
    made = SynthGenerator(SPEC, {"text": Printer()}, space, DEVICE).propose_now(proposal, 1)
    genome = Genome.parsed(made[0].genome)
    assert genome is not None
    return genome.steps


def test_experience_with_other_steps_is_taken_in_their_order() -> None:
    names = list(experienced({}))
    foreign = {f"k_other{n}": {"tile": 8 if n == 0 else 4, "unroll": 1} for n in range(len(names))}
    assert [point["tile"] for point in experienced(foreign).values()] == [8] + [4] * (len(names) - 1)


def test_experience_with_another_number_of_steps_says_nothing_about_them() -> None:
    foreign = {f"k_other{n}": {"tile": 8, "unroll": 1} for n in range(9)}
    assert {point["tile"] for point in experienced(foreign).values()} == {2}


def preferring(context: Proposal, worth: Any, **changes: Any) -> Proposal:
    return evolve(context, preference=lambda genomes: [worth(Genome.parsed(g)) for g in genomes], **changes)


def largest_tiles(genome: Genome) -> float:
    return float(sum(point["tile"] * point["unroll"] for point in genome.steps.values()))


@pytest.mark.parametrize("operator", ["draft", "mutate"])
def test_the_most_preferred_genome_of_a_pool_is_rendered(operator: str) -> None:
    parents = propose(proposal(0))
    context = proposal(5, operator, *parents)
    (plain,), (first,) = propose(context), propose(preferring(context, largest_tiles))
    genomes = [Genome.parsed(one.genome) for one in (plain, first)]
    assert genomes[0] is not None
    assert genomes[1] is not None
    assert largest_tiles(genomes[1]) > largest_tiles(genomes[0])
    assert first.origin.notes["move"] == "preferred"


def test_each_further_attempt_takes_the_next_preferred() -> None:
    parents = propose(proposal(0))
    made = [
        propose(preferring(proposal(5, "mutate", *parents, attempt=attempt), largest_tiles))[0]
        for attempt in range(3)
    ]
    worth = [largest_tiles(genome) for one in made if (genome := Genome.parsed(one.genome)) is not None]
    assert len({one.id for one in made}) == 3
    assert worth == sorted(worth, reverse=True)


def test_a_mutation_may_take_a_point_far_from_its_parents() -> None:
    def noted(genome: Genome) -> float:
        pool.append(genome)
        return 0.0

    def differences(one: Genome) -> int:
        return sum(
            point.get(name) != value
            for step, point in one.steps.items()
            for name, value in origin.steps.get(step, {}).items()
        )

    pool: list[Genome] = []
    parents = propose(proposal(0))
    origin = Genome.parsed(parents[0].genome)
    assert origin is not None
    propose(preferring(proposal(5, "mutate", *parents), noted))
    assert len({json.dumps(genome.plain()) for genome in pool}) == len(pool)
    assert 0 < sum(differences(genome) > 3 for genome in pool) < len(pool) / 2


def test_where_all_of_the_pool_was_tried_a_draw_is_made() -> None:
    parents = propose(proposal(0))
    (made,) = propose(preferring(proposal(5, "mutate", *parents), lambda _genome: float("-inf")))
    assert made.origin.notes["move"] in {"schedule", "partition"}


def test_a_draft_with_experience_starts_from_it() -> None:
    (one,) = propose(proposal(9, "sample"))
    assert one.genome is not None
    (made,) = propose(evolve(proposal(3), experience=(one.genome,)))
    assert (made.id, made.origin.notes["move"]) == (one.id, "experience")


def test_experience_of_another_generator_is_ignored() -> None:
    (made,) = propose(evolve(proposal(3), experience=({"generator": "other"},)))
    assert made.id == propose(proposal(3))[0].id


def starting(step: Step, device: Device, language: str) -> Space:
    starts = ({"tile": 8}, {"tile": 8, "unroll": 4}, {"tile": 4, "unroll": 2})  # the second is illegal
    precise = Parameter("precision", ("high", "low"), "high", coarse=("low",))
    made = space(step, device, language)
    return evolve(made, parameters=(*made.parameters, precise), starts=starts)


def test_starts_are_tried_right_after_the_default() -> None:
    made = SynthGenerator(SPEC, {"text": Printer()}, starting, DEVICE)
    points = [
        dict(next(iter(genome.steps.values())))
        for sequence in range(3)
        if (genome := Genome.parsed(made.propose_now(proposal(sequence), 1)[0].genome)) is not None
    ]
    assert [(p["tile"], p["unroll"]) for p in points] == [(2, 1), (8, 1), (4, 2)]


@pytest.mark.parametrize(("policy", "choices"), [("parity", {"high"}), ("relaxed", {"high", "low"})])
def test_coarse_choices_are_for_the_relaxed_policy(policy: str, choices: set[str]) -> None:
    spec = evolve(SPEC, precision=Precision(policy, 1e-2, 1e-2))
    made = SynthGenerator(spec, {"text": Printer()}, starting, DEVICE)
    found = made.propose_now(evolve(proposal(9, "sample"), spec=spec), 20)
    genomes = [Genome.parsed(c.genome) for c in found]
    assert {p["precision"] for g in genomes if g is not None for p in g.steps.values()} == choices


@frozen
class Choosy:
    """A `Printer` that leaves every program to others, or those in another order of memory than their own."""

    language: str = "other"
    ordered: bool = False

    def supports(self, step: Step) -> str:
        return Printer().supports(step)

    def declines(self, programs: Sequence[Program]) -> str:
        if self.ordered and not any(s.order for p in programs for s in p.steps if isinstance(s, LibraryCall)):
            return ""
        return f"{len(programs)} programs are another's"

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        return evolve(Printer().render(spec, programs, choices), language=self.language)


def test_a_renderer_may_leave_a_program_to_another_language() -> None:
    made = SynthGenerator(SPEC, {"other": Choosy(), "text": Printer()}, space, DEVICE)
    assert made.default().language == "text"
    with pytest.raises(UnsupportedError) as raised:
        SynthGenerator(SPEC, {"other": Choosy()}, space, DEVICE).check()
    assert raised.value.got == "other: 2 programs are another's"


CONVOLUTION = KernelSpec(
    "g",
    Reference("import torch\n\ndef g(x, w):\n    return torch.nn.functional.conv2d(x, w).tanh()\n", "g"),
    (Case("a", (InputSpec("x", (2, 4, 6, 6)), InputSpec("w", (8, 4, 3, 3)))),),
)


def _layouts(facts: Mapping[str, Any], count: int, without: Sequence[str] = ()) -> list[tuple[bool, str]]:
    """Whether the first ``count`` drafts lie channels-last, and the rewrites they name."""
    device = evolve(DEVICE, facts=facts)
    made = SynthGenerator(
        CONVOLUTION, {"text": Printer()}, space, device, graph=partial(graph_of, without=without)
    )
    drafts = [made.propose_now(Proposal(CONVOLUTION, device, k, 7), 1)[0] for k in range(count)]
    genomes = [Genome.parsed(c.genome) for c in drafts]
    notes = [str(c.origin.notes["rewrites"]) for c in drafts]
    return [(g is not None and g.partition.channels_last, n) for g, n in zip(genomes, notes, strict=True)]


def test_the_order_of_memory_that_a_device_prefers_comes_first_and_the_other_second() -> None:
    last, plain = (True, "channels_last"), (False, "")
    assert _layouts({"convolution_layouts": ["channels_last", "contiguous"]}, 2) == [last, plain]
    assert _layouts({"convolution_layouts": ["contiguous", "channels_last"]}, 2) == [plain, last]


def test_without_the_fact_or_the_rewrite_the_order_of_memory_is_no_choice() -> None:
    facts = {"convolution_layouts": ["channels_last", "contiguous"]}
    assert set(_layouts({}, 8)) == {(False, "")}
    assert set(_layouts(facts, 8, ["channels_last"])) == {(False, "")}


def test_the_search_may_change_the_order_of_memory() -> None:
    found = {moved_partition(Partition(), (), (), False, random.Random(k), layouts=True) for k in range(3)}
    assert found == {Partition(channels_last=True)}


JOINED = KernelSpec(
    "j",
    Reference(
        "import torch\n\ndef j(x):\n    return torch.cat((x.softmax(1), x.cumsum(1)), 0)\n",
        "j",
    ),
    (Case("a", (InputSpec("x", (4, 6)),)),),
)


@pytest.mark.parametrize(("without", "second"), [((), ("copies", "")), (("cat_in_place",), None)])
def test_concatenations_are_in_place_and_the_next_draft_copies_them(
    without: Sequence[str], second: tuple[str, str] | None
) -> None:
    graph = partial(graph_of, without=without)
    made = SynthGenerator(JOINED, {"text": Printer()}, space, DEVICE, graph=graph)
    drafts = [made.propose_now(Proposal(JOINED, DEVICE, k, 7), 1)[0].origin.notes for k in range(2)]
    found = [(d["move"], d["rewrites"]) for d in drafts]
    assert found[0] == ("default", "" if without else "cat_in_place")
    assert second is None or found[1] == second
    assert without == () or found[1][0] != "copies"


def test_the_search_may_copy_concatenations() -> None:
    found = {moved_partition(Partition(), (), (), False, random.Random(k), joins=True) for k in range(3)}
    assert found == {Partition(in_place=False)}


DEPTHWISE_LAYER = KernelSpec(
    "d",
    Reference(
        "import torch\n\ndef d(x, w):\n    return torch.conv2d(x, w, padding=1, groups=3).relu()\n",
        "d",
    ),
    (Case("a", (InputSpec("x", (2, 3, 6, 7)), InputSpec("w", (3, 1, 3, 3)))),),
)


@pytest.mark.parametrize(
    ("facts", "without", "expected"),
    [
        ({}, (), [("default", "windowed_convolution"), ("library", "")]),
        ({"depthwise_convolutions": "library"}, (), [("default", ""), ("windows", "windowed_convolution")]),
        ({}, ("windowed_convolution",), [("default", "")]),
    ],
)
def test_depthwise_convolutions_are_drafted_both_ways_the_devices_first(
    facts: Mapping[str, object], without: Sequence[str], expected: Sequence[tuple[str, str]]
) -> None:
    device, graph = evolve(DEVICE, facts=facts), partial(graph_of, without=without)
    made = SynthGenerator(DEPTHWISE_LAYER, {"text": Printer()}, space, device, graph=graph)
    drafts = [
        c.origin.notes for k in range(2) for c in made.propose_now(Proposal(DEPTHWISE_LAYER, device, k, 7), 1)
    ]
    found = [(d["move"], d["rewrites"]) for d in drafts]
    assert found[: len(expected)] == expected
    assert len(expected) > 1 or {m for m, _ in found}.isdisjoint({"library", "windows"})


def test_the_search_may_give_depthwise_convolutions_to_the_library() -> None:
    found = {moved_partition(Partition(), (), (), False, random.Random(k), windows=True) for k in range(3)}
    assert found == {Partition(windowed=False)}
    genome = Genome("text", Partition(windowed=False))
    assert Genome.parsed(genome.plain()) == genome


ATTENTION = KernelSpec(
    "h",
    Reference("import torch\n\ndef h(q, k, v):\n    return torch.softmax(q @ k.mT, -1) @ v\n", "h"),
    (Case("a", tuple(InputSpec(name, (2, 5, 6)) for name in "qkv")),),
)


@frozen
class Fuser:
    """A `Printer` with a kernel for attention."""

    language: str = "fused"

    def supports(self, step: Step) -> str:
        return Printer().supports(step)

    def fuses(self, step: Attention) -> str:
        return "" if step.safe or step.cols.extent < 9 else "too many keys"

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        return evolve(Printer().render(spec, programs, choices), language=self.language)


def _attention(
    spec: KernelSpec, sequence: int, operator: str = "draft", **renderers: Any
) -> tuple[bool, str]:
    """Whether a proposal has attention as one step, and the rewrites it names."""
    made = SynthGenerator(spec, renderers, space, DEVICE)
    (candidate,) = made.propose_now(Proposal(spec, DEVICE, sequence, 7, operator), 1)
    assert ("Attention(" in candidate.files["kernel.py"]) == (candidate.libraries == ())
    return "Attention(" in candidate.files["kernel.py"], str(candidate.origin.notes["rewrites"])


def test_a_language_with_a_kernel_for_attention_starts_with_it_and_then_without() -> None:
    assert _attention(ATTENTION, 0, fused=Fuser()) == (True, "identities, online_attention")
    assert _attention(ATTENTION, 1, fused=Fuser()) == (False, "identities")


def test_another_language_is_given_the_parts_of_attention() -> None:
    assert {_attention(ATTENTION, k, "sample", text=Printer()) for k in range(12)} == {(False, "identities")}


def test_attention_that_a_language_cannot_fuse_stays_in_parts() -> None:
    inputs = (InputSpec("q", (2, 5, 6)), InputSpec("k", (2, 9, 6)), InputSpec("v", (2, 9, 6)))
    spec = evolve(ATTENTION, cases=(Case("a", inputs),))
    assert _attention(spec, 0, fused=Fuser()) == (False, "identities")


def test_the_search_may_take_attention_apart() -> None:
    whole = Partition(attention=True)
    assert moved_partition(whole, (), (), False, random.Random(0), attention=True) == Partition()
    genome = Genome("fused", whole)
    assert Genome.parsed(genome.plain()) == genome


def test_a_language_that_declines_one_order_of_memory_starts_from_the_other() -> None:
    device = evolve(DEVICE, facts={"convolution_layouts": ["channels_last", "contiguous"]})
    renderers = {"text": Printer(), "other": Choosy(ordered=True)}
    made = SynthGenerator(CONVOLUTION, renderers, space, device)
    drafts = [made.propose_now(Proposal(CONVOLUTION, device, k, 7), 1)[0] for k in range(3)]
    genomes = [g for c in drafts if (g := Genome.parsed(c.genome)) is not None]
    found = [(g.language, g.partition.channels_last) for g in genomes]
    assert found == [("text", True), ("text", False), ("other", False)]


UNROLLED = KernelSpec(
    "f",
    Reference(
        """
import torch

def f(x, h, w):
    for row in x:
        h = torch.tanh(torch.cat((row, h), 1) @ w)
    return h
""",
        "f",
    ),
    (Case("a", (InputSpec("x", (6, 3, 4)), InputSpec("h", (3, 5)), InputSpec("w", (9, 5)))),),
)


def unrolled() -> SynthGenerator:
    return SynthGenerator(UNROLLED, {"text": Printer()}, space, DEVICE)


def test_steps_that_are_alike_have_one_point_and_a_renderer_gets_it_for_each() -> None:
    made = unrolled()
    candidate = made.default()
    steps = [s.name for s in made.programs()[0].steps]
    points = Genome.parsed(candidate.genome)
    assert points is not None
    assert len(points.steps) < len(steps) / 2
    shown = candidate.files["kernel.py"].rpartition("\n")[2]
    assert all(f"('{name}', " in shown for name in steps)


def test_a_step_that_is_cut_off_from_its_like_keeps_the_point_they_shared() -> None:
    made = unrolled()
    parent = evolve(made.default(), genome=_with_point(made.default(), {"tile": 8, "unroll": 2}))
    names = {s.name for s in made.programs()[0].steps}
    seen = set()
    for sequence in range(60):
        context = evolve(proposal(sequence, "mutate", parent), spec=UNROLLED)
        for child in made.propose_now(context, 1):
            genome = Genome.parsed(child.genome)
            assert genome is not None
            if child.origin.notes["move"] == "partition" and genome.partition != Partition():
                seen |= {tuple(p.values()) for name, p in genome.steps.items() if name in names}
    assert seen == {(8, 2)}


def _with_point(candidate: Candidate, point: Point) -> dict[str, Any]:
    plain = dict(candidate.genome)
    return {**plain, "steps": {name: dict(point) for name in plain["steps"]}}
