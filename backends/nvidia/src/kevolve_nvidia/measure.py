"""Measures one GPU's ceilings and prints them as a line of JSON: ``python measure.py INDEX L2_BYTES``.

Run by `kevolve_nvidia.peaks` in an interpreter of its own, so that the caller keeps neither a CUDA context
nor the memory. Needs torch and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

_ROUNDS = 12
_BYTES = 1 << 30


def _best(call: Callable[[], Any]) -> float:
    """Least seconds of a call, by events, with the launch queued behind a kernel that waits."""
    least = float("inf")
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # about half a millisecond of cycles
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        least = min(least, start.elapsed_time(end) * 1e-3)
    return least


def _matmul(n: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.float32).to(dtype) for _ in range(2))
    out = torch.empty(n, n, device="cuda", dtype=dtype)
    torch.mm(a, b, out=out)
    return 2.0 * n**3 / _best(lambda: torch.mm(a, b, out=out))


def main() -> None:
    index, l2 = int(sys.argv[1]), int(sys.argv[2])
    torch.cuda.set_device(index)
    size = max(_BYTES, 8 * l2) // 4
    source = torch.randn(size, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * 4 * size / _best(lambda: target.copy_(source))
    read = 4 * size / _best(lambda: source.sum())
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {"float32": _matmul(4096, torch.float32)}
    torch.backends.cuda.matmul.allow_tf32 = True
    rates["tfloat32"] = _matmul(8192, torch.float32)
    rates["float16"] = _matmul(8192, torch.float16)
    rates["bfloat16"] = _matmul(8192, torch.bfloat16)
    one = torch.zeros(1, device="cuda")
    launch = _best(lambda: one.zero_())
    print(
        json.dumps(
            {
                "copy_bytes_per_s": copied,
                "read_bytes_per_s": read,
                "matmul_flops_per_s": rates,
                "launch_seconds": launch,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
