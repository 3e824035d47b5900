"""The oracle on its own: which specifications are worth searching, and its cheap agreement check."""

from __future__ import annotations

import pytest
import torch

from kevolve_core.evaluate.oracle import OracleRole
from kevolve_core.isolate.tensors import pack_block
from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Reference
from kevolve_core.serial import to_plain


def oracle(source: str, *inputs: InputSpec) -> OracleRole:
    reference = Reference(f"import torch\nimport torch.nn.functional as F\n{source}\n", "f")
    spec = KernelSpec("f", reference, (Case("only", inputs or (InputSpec("x", (64, 33)),)),))
    return OracleRole(to_plain(spec), seed=0, secret=7, threads=1)


IDS = InputSpec("y", (64,), "int64", Distribution("integers", 0, 33))

SOUND = {
    "softmax": ("def f(x): return torch.softmax(x, -1)", ()),
    "a loss": ("def f(x, y): return F.cross_entropy(x, y)", (InputSpec("x", (64, 33)), IDS)),
    "a sum": ("def f(x): return x.sum()", ()),
    "an argmax": ("def f(x): return x.argmax(-1)", ()),
    "several outputs": ("def f(x): return x.mean(-1), {'m': x.amax()}", ()),
    "sparse result": ("def f(x): return torch.relu(x - 2)", ()),
}
DEGENERATE = {
    "zeros": ("def f(x): return x * 0", "zeros"),
    "a constant": ("def f(x): return torch.softmax(x * 0, -1)", "a constant"),
    "an empty softmax": ("def f(x): return torch.softmax(x.sum(-1, keepdim=True), -1)", "a constant"),
    "a copy": ("def f(x): return x.clone()", "a copy of input 0"),
    "no dependence on the input": (
        "def f(x): return torch.arange(x.numel()).reshape(x.shape)",
        "another input's output",
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_specification_accepts_no_fake(name: str) -> None:
    source, inputs = SOUND[name]
    reply, _ = oracle(source, *inputs).op_audit("only")
    assert reply["accepted"] == []


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_specification_is_found_out(name: str) -> None:
    source, fake = DEGENERATE[name]
    reply, _ = oracle(source).op_audit("only")
    assert fake in reply["accepted"]


def test_a_right_output_agrees_and_a_stale_one_does_not() -> None:
    role = oracle("def f(x): return torch.softmax(x, -1)")
    kept, _ = role.op_draw("only", "base", "contiguous")
    right = torch.softmax(torch.randn(64, 33), -1)
    stale = torch.softmax(torch.randn(64, 33), -1)
    for output, expected in (
        (right.clone(), True),
        (stale, False),
        (right[:1], False),
        (right * torch.nan, False),
    ):
        mine, baseline = pack_block(output), pack_block(right)
        reply, _ = role.op_agree([mine.fd, baseline.fd], kept["handle"], mine.layout, baseline.layout)
        assert reply["agree"] is expected


def test_fresh_inputs_differ_from_call_to_call_and_keep_their_constraints() -> None:
    role = oracle(
        "def f(x, y): return x[y]",
        InputSpec("x", (1 << 11, 1 << 10)),
        InputSpec("y", (1 << 12,), "int64", Distribution("sorted", 0, 1 << 11)),
    )
    seen = []
    for _ in range(3):
        reply, (block,) = role.op_fresh("only")
        x, y = role._handles[reply["handle"]].inputs
        assert torch.equal(y, y.sort().values)
        seen.append(x.clone())
        block.close()
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
