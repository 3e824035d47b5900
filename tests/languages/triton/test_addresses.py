"""No generated kernel touches memory beside its tensors, at sizes that fit no machine here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.languages.triton import TritonRenderer
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

ROOT = Path(__file__).parents[3]
SHAPE = (70000, 500, 96)  # more than 2^31 elements; tails along every axis of a tile


def product_by_descriptors() -> str:
    """A batch of products, whose operands are loaded through tensor descriptors."""
    tensors = [torch.empty(SHAPE, device="meta"), torch.empty((SHAPE[0], SHAPE[2], 68), device="meta")]
    program = synthesise(simplified(capture(torch.bmm, tensors, keep=TABLE)), "main").program
    point = {"implementation": "generated", "tile_loads": "descriptors", "tile_depth": 64}
    spec = KernelSpec("test", Reference("", "f"), (Case("main"),))
    return TritonRenderer().render(spec, [program], {s.name: point for s in program.steps}).files["kernel.py"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, int]:
    """Accesses beside a tensor, of attention and a product as they are generated, and with what keeps them
    right taken out."""
    tensors = [torch.empty(SHAPE, device="meta") for _ in range(3)]
    graph = simplified(capture(lambda q, k, v: attend(q, k, v, is_causal=True), tensors, keep=TABLE))
    program = synthesise(graph, "main", Partition(attention=True)).program
    spec = KernelSpec("test", Reference("", "f"), (Case("main"),))
    points = {s.name: {"block_m": 64, "block_n": 128} for s in program.steps}
    text = TritonRenderer().render(spec, [program], points).files["kernel.py"]
    product = product_by_descriptors()
    assert "tl.dot" in text
    assert "[70000, 500, 96]" in product
    sources = {
        "generated": text,
        "narrow": text.replace(".to(tl.int64)", ""),
        "unmasked": re.sub(r", mask=[\w &]+(, other=0\.0)?\)", ")", text),
        "product": product,
        "longer": product.replace("[70000, 500, 96]", "[70000, 512, 96]"),
    }
    folder = tmp_path_factory.mktemp("addresses")
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.interpreted.addresses",
         *(str(folder / f"{name}.py") for name in sources)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    lines = re.findall(r"/(\w+)\.py \w+: .* (\d+) beside", done.stdout)
    assert len(lines) == len(sources), done.stderr[-2000:]
    return {name: int(count) for name, count in lines}


@pytest.mark.parametrize("kernel", ["generated", "product"])
def test_kernels_stay_within_their_tensors(found: Mapping[str, int], kernel: str) -> None:
    assert found[kernel] == 0


@pytest.mark.parametrize("fault", ["narrow", "unmasked", "longer"])
def test_overflow_a_tail_without_a_mask_and_a_descriptor_of_too_many_rows_are_seen(
    found: Mapping[str, int], fault: str
) -> None:
    assert found[fault] > 0
