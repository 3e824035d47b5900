"""Concatenations put together in place: where parts lie, that copies are gone, and that results stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kevolve_core.ir import LibraryCall, LoopNest, Program
from kevolve_core.synth import interpret, joins
from kevolve_core.synth.capture import capture
from kevolve_core.synth.genome import Genome
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified
from kevolve_core.synth.work import step_work

COPIED = Partition(in_place=False)
LAST = Partition(channels_last=True)
_random = torch.Generator().manual_seed(0)


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=_random)


W = rand(6, 6, 3, 3) / 7
X, Y = rand(3, 6, 5, 7), rand(3, 6, 5, 7)


class Dense(nn.Module):
    """A dense block: every layer reads all features so far."""

    def __init__(self, layers: int = 3, growth: int = 4, front: bool = False) -> None:
        super().__init__()
        sizes = [6 + k * growth for k in range(layers)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in sizes)
        self.convolutions = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1, bias=False) for n in sizes)
        self.front = front

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [F.max_pool2d(x, 3, 1, 1)]
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            joined = torch.cat(features, 1) if len(features) > 1 else features[0]
            new = convolution(F.relu(norm(joined)))
            features = [new, joined] if self.front else [*features, new]
        return F.relu(torch.cat(features, 1)).mean((2, 3))


def skip(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A part that is pooled as well: the first half of a U."""
    a = torch.softmax(F.conv2d(x, W, padding=1), -1)
    down = F.max_pool2d(a, 2, 1, 1)[..., :5, :7]
    up = F.conv2d(down, W, padding=1)
    return F.conv2d(torch.cat((up, a), 1), torch.cat((W, W), 1))


def heads(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Normalised heads one after another; products read them."""
    joined = torch.cat([torch.softmax(t.flatten(2), 1) for t in (x, y)], 0)
    return torch.bmm(joined, joined.transpose(1, 2))


def stacked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.softmax(t, -2) for t in (x, y)], -1)


def sorts_of_parts(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """An input, a view, a running sum, a pooled and a repeated part; a negative dimension."""
    scanned = y.cumsum(2)
    pooled = F.avg_pool2d(x, 3, 1, 1)
    joined = torch.cat((x, y.transpose(0, 1)[:3, :, :, :].reshape(3, 3, 5, 7), scanned, pooled, pooled), -3)
    return F.conv2d(joined[:, :6], W) + F.conv2d(joined[:, -6:], W)


def output_part(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.softmax(x, -1), torch.softmax(y, -1)
    return a, torch.cat((a, b), 0)


def promoted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat((x.softmax(3).half(), y.softmax(3), y.half()), 2)


def empty_parts(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[:, :0], x.softmax(3), torch.empty(0), y.softmax(3)[:, 2:2], y.softmax(3)), 1)


def alone(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat((x.softmax(3),), 1), torch.stack((y.softmax(3),), 1)


def read_by_a_convolution(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    a = x.softmax(3)
    return F.conv2d(torch.cat((F.conv2d(a, W, padding=1), a), 1), torch.cat((W, W), 1))


def one_from_another(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A nest that would read the buffer it writes."""
    a = x.softmax(3)
    b = (a.cumsum(2) * y).softmax(2)
    return torch.cat((a, b, a.exp(), a), 1)


def in_two(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    a, b, c = (t.softmax(3) for t in (x, y, x * y))
    return torch.cat((a, b), 1).mul(torch.cat((c, a), 1)) @ torch.cat((b, c), 1).transpose(2, 3)


def shuffled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loops of the concatenation are cut to the size of its readers' reshape as well."""
    joined = torch.cat((x.softmax(3), F.conv2d(y, W, padding=1), y), 1)
    turned = joined.view(3, 3, 6, 5, 7).transpose(1, 2).reshape(3, 18, 5, 7)
    return F.conv2d(turned, torch.cat((W, W, W), 1))


def normalised_after(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    joined = torch.cat((x.softmax(3), F.conv2d(y, W, padding=1), y.cumsum(1)), 1)
    return F.conv2d(F.batch_norm(joined, None, None, training=True), torch.cat((W, W, W), 1)) + joined.mean()


def products(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A dense multilayer perceptron: products read slices."""
    rows = x.flatten(2).flatten(0, 1)
    for _ in range(3):
        rows = torch.cat((rows, torch.relu(rows @ rows.t() @ rows).softmax(0)[:, :9]), 1)
    return rows


def searched(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    edges = torch.cat((x.sigmoid().cumsum(3), 9 + y.sigmoid().cumsum(3)), 3)
    return torch.searchsorted(edges, y)


def scattered(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    joined = torch.cat((x.softmax(3), y.softmax(3)), 1)
    return joined.index_add(1, torch.tensor([0, 3, 3]), y[:, :3]) + joined


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        skip, heads, stacked, sorts_of_parts, output_part, promoted, empty_parts, alone,
        read_by_a_convolution, one_from_another, in_two, shuffled, normalised_after, products, searched,
        scattered,
    )
}  # fmt: skip


@pytest.fixture(params=[1, joins.WORTH], ids=["libraries-apart", "usual"])
def worth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nests of their own for parts that libraries compute, however small, or only for large ones."""
    monkeypatch.setattr(joins, "WORTH", request.param)


def _program(function: Callable[..., Any], *inputs: torch.Tensor, **how: Any) -> Program:
    graph = simplified(capture(function, inputs, keep=TABLE), how.get("without", ()))
    return synthesise(graph, "case", how.get("partition")).program


def _writers(program: Program) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for nest in program.nests():
        for name in nest.writes():
            found.setdefault(name, []).append(nest.name)
    return found


def _moved(program: Program) -> float:
    """Bytes that the steps move."""
    return sum(step_work(s, program.buffers).bytes for s in program.steps)


@pytest.mark.parametrize("partition", [Partition(), LAST, Partition(epilogues=False)], ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("worth")
def test_results_are_the_reference_s(check: Callable[..., Any], name: str, partition: Partition) -> None:
    program = check(FUNCTIONS[name], [X, Y], partition)
    for nest in program.nests():
        assert not nest.reads() & set(nest.writes()) or nest.anchor == "scatter"


@pytest.mark.parametrize("partition", [Partition(), LAST], ids=["contiguous", "last"])
@pytest.mark.parametrize("front", [False, True])
@pytest.mark.usefixtures("worth")
def test_a_dense_block_is_one_buffer_that_grows(front: bool, partition: Partition) -> None:
    net = Dense(front=front).eval()
    with torch.no_grad():
        program = _program(net, X, partition=partition)
        got = interpret.run_program(program, [X], net.state_dict())
        torch.testing.assert_close(got, net(X), rtol=2e-5, atol=2e-5)
        copied = _program(net, X, partition=COPIED)
    held = [b for b in program.buffers.values() if b.role == "temp" and b.name.startswith("cat")]
    assert len(held) == 1
    assert len([n for n in copied.buffers if n.startswith("cat")]) == 2
    assert _moved(program) < _moved(copied)


def test_a_part_that_others_read_is_stored_once() -> None:
    program, copied = _program(skip, X, Y), _program(skip, X, Y, partition=COPIED)
    assert "softmax" not in "".join(program.buffers)
    (name,) = [n for n, by in _writers(program).items() if len(by) == 2]
    readers = [s for s in program.steps if isinstance(s, LoopNest) and name in s.reads()]
    assert [n.anchor for n in readers] == ["reduction"]  # the pooling reads the slice
    assert _moved(program) < _moved(copied)


def test_a_concatenation_of_computed_parts_needs_no_nest() -> None:
    program = _program(heads, X, Y)
    assert len([s for s in program.steps if isinstance(s, LoopNest)]) == 2
    assert sorted(len(by) for by in _writers(program).values()) == [2]
    (call,) = [s for s in program.steps if isinstance(s, LibraryCall)]
    assert call.operands[0].strides == (6 * 35, 35, 1)


def test_what_a_convolution_reads_is_not_a_slice() -> None:
    program = _program(read_by_a_convolution, X, Y)
    for call in (s for s in program.steps if isinstance(s, LibraryCall)):
        b = program.buffers[call.operands[0].buffer]
        assert call.operands[0].shape == b.shape


def test_of_a_batch_of_one_a_convolution_reads_the_slice() -> None:
    program = _program(read_by_a_convolution, X[:1], Y[:1])
    calls = [s for s in program.steps if isinstance(s, LibraryCall)]
    assert calls[0].operands[0].buffer == calls[1].operands[0].buffer
    assert calls[0].operands[0].offset == 6 * 35


def test_results_of_a_program_are_apart() -> None:
    program = _program(output_part, X, Y)
    assert len({o.buffer for o in program.outputs}) == 2


def test_branches_of_convolutions_follow_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "WORTH", 1)

    def branches(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((F.conv2d(x, W, padding=1).relu(), F.conv2d(x, W, padding=1) * 2, x), 1)

    calls = [s for s in _program(branches, X).steps if isinstance(s, LibraryCall)]
    written = [c.epilogue.writes() for c in calls if c.epilogue is not None]
    assert written == [("cat",), ("cat",)]


def test_small_branches_share_a_nest() -> None:
    def branches(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((F.conv2d(x, W, padding=1).relu(), F.conv2d(x, W, padding=1) * 2), 1)

    assert len(list(_program(branches, X).nests())) == 1


@pytest.mark.parametrize("name", [*FUNCTIONS, "dense"])
def test_without_the_rewrite_everything_is_copied_as_before(name: str) -> None:
    function, inputs = (Dense().eval(), [X]) if name == "dense" else (FUNCTIONS[name], [X, Y])
    off = _program(function, *inputs, without=["cat_in_place"])
    assert repr(off) == repr(_program(function, *inputs, partition=COPIED))


def test_a_genome_says_that_concatenations_are_copied() -> None:
    genome = Genome("cpp", COPIED)
    assert genome == Genome.parsed(genome.plain())
    assert "in_place" not in Genome("cpp").plain()["partition"]
