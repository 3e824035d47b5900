"""The convolutions that `benchmarks/h100_convolutions.py` times, as far as a machine without a GPU goes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kevolve_core.errors import UnsupportedError
from kevolve_nvidia.facts import compile_only
from kevolve_nvidia.plugin import NvidiaBackend

from .conftest import installed

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import h100_convolutions as bench


@pytest.mark.parametrize("one", bench.CONVOLUTIONS, ids=lambda one: one.name)
def test_flops_are_those_that_the_reference_counts(one: bench.Convolution) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    scope: dict[str, object] = {}
    exec(one.spec().reference.source, scope)
    x, w = torch.empty(one.image, device="meta"), torch.empty(one.weight, device="meta")
    with FlopCounterMode(display=False) as counter:
        scope["f"](x, w)  # type: ignore[operator]
    assert one.flops == counter.get_total_flops()


@installed
@pytest.mark.parametrize("one", bench.CONVOLUTIONS, ids=lambda one: one.name)
def test_each_is_a_generated_kernel_or_has_too_few_channels(one: bench.Convolution) -> None:
    backend, device = NvidiaBackend({}), compile_only("sm_90a")
    if one.image[1] < 16:
        with pytest.raises(UnsupportedError):
            bench.candidate_of(one, backend, device)
        return
    candidate = bench.candidate_of(one, backend, device)
    text = candidate.files["kernel.py"]
    assert (candidate.libraries, text.count(" = HopperConvolution(")) == ((), 1)
    point = {"width": "box=({},", "cluster": "cluster={},", "channels": "tile={},"}
    wanted = [point[name.removeprefix("tile_")].format(n) for name, n in one.point.items()]
    assert all(words in text for words in wanted)
