"""Schedule spaces: legal defaults, and constraints that follow the device."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.languages.triton import TritonFacts, schedule_space
from kevolve_core.space import Space
from tests.languages.triton.test_rendering import GENERATED, program_of, rendered


def space_of(facts: TritonFacts, function: Callable[..., Any], *shapes: tuple[int, ...]) -> Space:
    return schedule_space(program_of(function, *shapes).steps[0], facts)


FACTS = [
    TritonFacts(),
    TritonFacts(processors=132, shared_bytes=227 << 10),
    TritonFacts(processors=132, shared_bytes=227 << 10, warps_along_rows=True, descriptors=True),
    TritonFacts(processors=304, warp_size=64, shared_bytes=64 << 10, precisions=("ieee",)),
    TritonFacts(processors=4, warp_size=32, max_threads=128, shared_bytes=16 << 10, float64=False),
]
STEPS = {
    "pointwise": (torch.exp, ((1000, 333),)),
    "scalar": (torch.exp, ((),)),
    "rows": (lambda x: F.softmax(x, -1), ((1000, 333),)),
    "long rows": (lambda x: F.softmax(x, -1), ((16, 1 << 18),)),
    "columns": (lambda x: x.sum(0), ((1000, 333),)),
    "scan": (lambda x: torch.cumsum(x, -1), ((1000, 333),)),
    "product": (lambda x, y: x @ y, ((256, 512), (512, 128))),
    "product and what follows": (lambda x, y: (x @ y).relu(), ((256, 512), (512, 128))),
    "attention": (F.scaled_dot_product_attention, ((2, 3, 100, 40),) * 3),
    "causal attention of wide heads": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        ((1, 2, 100, 256),) * 3,
    ),
    "convolution": (lambda x, w: F.conv2d(x, w), ((2, 3, 9, 9), (4, 3, 3, 3))),
}


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("step", STEPS)
def test_the_default_is_legal_and_draws_are(step: str, facts: TritonFacts) -> None:
    function, shapes = STEPS[step]
    space = space_of(facts, function, *shapes)
    assert space.violated(space.default()) is None
    rng = random.Random(0)
    assert all(space.is_legal(space.sample(rng)) for _ in range(20))


@pytest.mark.parametrize("step", STEPS)
def test_every_draw_prints(step: str) -> None:
    function, shapes = STEPS[step]
    program = program_of(function, *shapes)
    space, rng = schedule_space(program.steps[0], FACTS[1]), random.Random(1)
    texts = {rendered(program, space.sample(rng)).files["kernel.py"] for _ in range(8)}
    assert all(compile(text, "kernel.py", "exec") for text in texts)


def test_tiles_that_do_not_fit_on_chip_memory_are_illegal() -> None:
    space = space_of(TritonFacts(shared_bytes=64 << 10), lambda x, y: x @ y, (512, 512), (512, 512))
    point = {**space.default(), **GENERATED, "tile_rows": 256, "tile_cols": 128, "tile_depth": 64}
    assert "65536 bytes of on-chip memory" in str(space.violated({**point, "tile_num_stages": 4}))


@pytest.mark.parametrize(("along_rows", "legal"), [(True, [(64, 4), (128, 4), (128, 8)]), (False, None)])
def test_attention_has_no_warps_beyond_its_rows_where_they_would_share_them(
    along_rows: bool, legal: list[tuple[int, int]] | None
) -> None:
    facts = TritonFacts(shared_bytes=227 << 10, warps_along_rows=along_rows)
    space = space_of(facts, F.scaled_dot_product_attention, *[(8, 16, 512, 128)] * 3)
    small = {**space.default(), "block_n": 16, "num_stages": 1}
    points = [(rows, warps) for rows in (64, 128) for warps in (4, 8, 16)]
    found = [x for x in points if space.is_legal({**small, "block_m": x[0], "num_warps": x[1]})]
    assert found == (points if legal is None else legal)


@pytest.mark.parametrize(
    ("step", "descriptors", "offered"),
    [("product", True, True), ("product", False, False), ("convolution", True, False)],
)
def test_descriptors_are_offered_to_matrix_products_where_hardware_has_them(
    step: str, descriptors: bool, offered: bool
) -> None:
    space = space_of(TritonFacts(descriptors=descriptors), *_flat(step))
    assert ("tile_loads" in {p.name for p in space.parameters}) == offered


def test_a_persistent_grid_is_offered_only_where_programs_outnumber_processors() -> None:
    names = {p.name for p in space_of(TritonFacts(processors=64), lambda x: x.sum(-1), (32, 100)).parameters}
    assert "programs" not in names


def test_precision_schemes_are_those_the_target_has() -> None:
    space = space_of(TritonFacts(precisions=("ieee", "tf32")), lambda x, y: x @ y, (64, 64), (64, 64))
    assert {p.name: p.choices for p in space.parameters}["tile_precision"] == ("ieee", "tf32")


def test_schemes_that_round_operands_are_coarse_in_products_alone() -> None:
    def precisions(function: Callable[..., Any], *shapes: tuple[int, ...]) -> tuple[Any, ...]:
        space = space_of(FACTS[1], function, *shapes).exact()
        return next(p.choices for p in space.parameters if p.name == "tile_precision")

    assert precisions(*_flat("product")) == ("ieee", "tf32x3", "bf16x6")
    assert precisions(*_flat("convolution")) == FACTS[1].precisions


def _flat(step: str) -> tuple[Any, ...]:
    function, shapes = STEPS[step]
    return (function, *shapes)


def test_a_row_is_held_only_where_it_fits_a_threads_registers() -> None:
    space = space_of(FACTS[1], lambda x: F.softmax(x, -1), (1000, 40960))
    held = {**space.default(), "rows": 1, "cols": 4096, "held": True, "programs": 0}
    fits = [w for w in (4, 8, 16, 32) if space.is_legal({**held, "num_warps": w})]
    assert fits == [16, 32]


def test_starts_are_legal_points_and_each_is_there_once() -> None:
    facts = TritonFacts(nest_starts=({"num_warps": 2}, {"num_warps": 2, "rows": 1 << 20}, {"num_warps": 2}))
    space = space_of(facts, lambda x: F.softmax(x, -1), (1000, 333))
    assert space.started() == [{**space.default(), "num_warps": 2}]


def test_a_product_of_unknown_type_begins_as_both_types_do() -> None:
    facts = TritonFacts(
        product_starts=({"tile_rows": 16}, {"tile_rows": 32}), half_starts=({"tile_rows": 128},)
    )
    plain = space_of(facts, lambda x, y: x @ y, (256, 512), (512, 128))
    followed = space_of(facts, lambda x, y: (x @ y).relu(), (256, 512), (512, 128))
    rows = [[start["tile_rows"] for start in space.starts] for space in (plain, followed)]
    assert rows == [[16, 128, 32], [16, 32]]
