"""Depthwise convolutions as sums over windows, compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import render_harness as harness
import torch
import torch.nn.functional as F

from kevolve_core.ir import LoopNest
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

#: shapes of image and weight, and the convolution's arguments
CASES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], Mapping[str, Any]]] = {
    "1d": ((2, 3, 37), (3, 1, 4), {"padding": 2, "groups": 3}),
    "2d": ((2, 4, 9, 21), (4, 1, 3, 3), {"groups": 4}),
    "strided, padded, dilated": (
        (2, 4, 11, 22), (4, 1, 3, 2), {"stride": (2, 3), "padding": (2, 1), "dilation": (2, 3), "groups": 4}),
    "multiplier": ((2, 3, 6, 19), (6, 1, 3, 3), {"padding": 1, "groups": 3}),
    "few channels a group": ((2, 6, 8, 9), (4, 3, 3, 3), {"padding": 1, "groups": 2}),
    "3d": ((1, 2, 4, 5, 18), (2, 1, 2, 3, 3), {"padding": 1, "groups": 2}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("name", CASES)
def test_results_are_eager_ones(name: str, dtype: torch.dtype) -> None:
    image, weight, options = CASES[name]
    convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(image)]

    def layer(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.relu6(convolution(x.relu(), w, b, **options))

    random = torch.Generator().manual_seed(0)
    shapes = (image, weight, weight[:1])
    inputs = [torch.randn(s, generator=random).to(dtype) for s in shapes]
    program = synthesise(simplified(capture(layer, inputs, keep=TABLE)), "main", Partition()).program
    assert all(isinstance(s, LoopNest) for s in program.steps)
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(dtype, 2e-5)
    got, want = harness.run(program, inputs), layer(*inputs)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
