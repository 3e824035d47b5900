"""Which steps are one computation on other tensors, and what they differ in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve

from kevolve_core.ir import Axis, Buffer, Const, Expr, Index, Load, LoopNest, Op, Program, Store
from kevolve_core.synth.alike import Likeness, Offsets, leaders, of_nest, shifts
from kevolve_core.synth.index import integer, linear

I = Index("i")  # noqa: E741
BUFFERS = {
    "x": Buffer("x", (64,), "float32", "input"),
    "y": Buffer("y", (64,), "float32", "input"),
    **{f"t{k}": Buffer(f"t{k}", (8,), "float32", "temp") for k in range(4)},
    "short": Buffer("short", (4,), "float32", "temp"),
}


def at(offset: int) -> Expr:
    return Op("add", (I, integer(offset)), "int64") if offset else I


def load(buffer: str, offset: int = 0) -> Expr:
    return Load(buffer, (at(offset),), "float32")


def times(a: Expr, b: Expr | float) -> Expr:
    return Op("mul", (a, b if not isinstance(b, float) else Const(b, "float32")), "float32")


def nest(value: Expr, into: str = "t0", offset: int = 0, name: str = "k", extent: int = 8) -> LoopNest:
    return LoopNest(name, (Axis("i", extent),), 1, (Store(into, (at(offset),), value),))


def form(value: Expr, into: str = "t0", offset: int = 0) -> Likeness:
    return of_nest(nest(value, into, offset), BUFFERS)


def alike(a: Expr, b: Expr) -> bool:
    return form(a).key == form(b, "t1").key


def unrolled(lower: Callable[..., Any], steps: int) -> Program:
    def run(x: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        found = []
        for t in range(steps):
            h = torch.tanh(torch.cat((x[t], h), 1) @ w)
            found.append(torch.softmax(h, -1))
        return torch.stack(found)

    shapes = (steps, 3, 5), (3, 4), (9, 4)
    program: Program = lower(run, [torch.randn(s) for s in shapes]).program
    return program


def test_steps_that_read_and_write_other_buffers_are_alike() -> None:
    assert alike(times(load("x"), 2.0), times(load("y"), 2.0))


def test_steps_that_work_elsewhere_in_a_buffer_are_alike() -> None:
    assert alike(times(load("x", 8), 2.0), times(load("x", 24), 2.0))


def test_steps_with_other_numbers_are_not_alike() -> None:
    assert not alike(times(load("x"), 2.0), times(load("x"), 3.0))


def test_numbers_that_are_equal_but_for_their_sign_or_type_are_not_alike() -> None:
    assert not alike(times(load("x"), 0.0), times(load("x"), -0.0))


def test_a_step_that_reads_one_buffer_twice_is_not_like_one_that_reads_two() -> None:
    assert not alike(times(load("x"), load("x", 8)), times(load("x"), load("y", 8)))


def test_a_step_that_reads_one_place_twice_is_not_like_one_that_reads_two_places() -> None:
    assert not alike(times(load("x"), load("x")), times(load("x"), load("x", 8)))


def test_steps_over_buffers_of_other_shapes_are_not_alike() -> None:
    assert form(load("x"), "t0").key != form(load("x"), "short").key


def test_a_constant_outside_of_an_address_counts() -> None:
    first, second = (Op("cast", (at(n),), "float32") for n in (1, 2))
    assert not alike(first, second)


def test_offsets_that_move_together_are_one_index_with_the_largest_coefficients() -> None:
    members = [form(times(load("x", 16 * t + 3), load("x", 16 * t)), f"t{t}", 2 * t) for t in range(3)]
    offsets = Offsets.of(members)
    assert (offsets.axes, offsets.values) == ((Axis("at0", 3),), ((0,), (1,), (2,)))
    assert sorted(offsets.changes.values()) == [(0, "at0", 2), (0, "at0", 16), (3, "at0", 16)]


def test_offsets_that_move_apart_are_two_indices() -> None:
    members = [form(times(load("x", 8 * t), load("y", 8 * (2 - t)))) for t in range(3)]
    assert Offsets.of(members).values == ((0, 2), (1, 1), (2, 0))


def test_the_nest_for_all_reads_where_each_of_them_reads() -> None:
    members = [form(load("x", 8 * t + 1), f"t{t}") for t in (0, 2, 3)]
    offsets = Offsets.of(members)
    (store,) = offsets.nest(nest(load("x", 1)), members[0]).body
    assert isinstance(store, Store)
    assert isinstance(store.value, Load)
    assert linear(store.value.index[0]) == (1, {I: 1, Index("at0"): 8})
    assert linear(store.index[0]) == (0, {I: 1})
    assert offsets.values == ((0,), (2,), (3,))


def test_an_index_inside_an_index_is_moved_too() -> None:
    def gathered(t: int) -> Expr:
        inner = Load("short", (at(t),), "int64")
        return Load("x", (inner,), "float32")

    members = [form(gathered(t)) for t in range(2)]
    (store,) = Offsets.of(members).nest(nest(gathered(0)), members[0]).body
    assert isinstance(store, Store)
    (inner,) = store.value.index  # type: ignore[union-attr]
    assert isinstance(inner, Load)
    assert linear(inner.index[0]) == (0, {I: 1, Index("at0"): 1})


def test_a_shift_is_known_where_all_accesses_of_a_buffer_move_alike() -> None:
    one = nest(times(load("x", 8), load("x", 16)))
    first = of_nest(one, BUFFERS)
    moved = form(times(load("y", 24), load("y", 32)), "t1", 1)
    apart = form(times(load("y", 24), load("y", 40)), "t1")
    assert shifts(one, first, moved, BUFFERS) == {"x": 16, "t0": 1}
    assert shifts(one, first, apart, BUFFERS) is None


def test_the_steps_of_an_unrolled_loop_follow_the_first(lower: Callable[..., Any]) -> None:
    few, many = (len(set(leaders([unrolled(lower, n)]).values())) for n in (12, 20))
    assert len(unrolled(lower, 12).steps) > 12
    assert few == many
    assert many < 6


def test_steps_are_alike_only_where_they_are_in_every_case() -> None:
    def program(second: float) -> Program:
        steps = nest(times(load("x"), 2.0), "t0", name="a"), nest(times(load("y"), second), "t1", name="b")
        return Program("c", BUFFERS, steps, ())

    assert leaders([program(2.0)]) == {"a": "a", "b": "a"}
    assert leaders([program(2.0), program(3.0)]) == {"a": "a", "b": "b"}
    shorter = evolve(program(2.0), steps=program(2.0).steps[:1])
    assert leaders([shorter, program(2.0)]) == {"a": "a", "b": "b"}
