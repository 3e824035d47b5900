"""The six probe kernels that the conformance kit runs on a CPU."""

from __future__ import annotations

from kevolve_core.model import Candidate
from kevolve_core.testing import PROBE_SYMBOL, ProbeKernels

__all__ = ["probe_kernels"]

#: 32 MiB an argument: a copy lasts milliseconds, and it and one of twice the size both come from memory.
_ELEMENTS = 1 << 23

_ENTRY = f"""
import torch
from kevolve_core.native import load_native

library = load_native("kernel.cpp", {{"run": "ppl"}})


def {PROBE_SYMBOL}(x):
    y = torch.empty_like(x)
    library.run(x.data_ptr(), y.data_ptr(), x.numel())
    return y
"""

_KERNEL = """
#include <cstdint>

extern "C" void run(const float* x, float* y, int64_t n) {{
{body}
}}
"""

_COPY = """#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) y[i] = x[i];"""


def _probe(body: str, entry: str = _ENTRY) -> Candidate:
    files = {"kernel.cpp": _KERNEL.format(body=body), "kernel.py": entry}
    return Candidate(files, "kernel.py", "cpp", PROBE_SYMBOL)


def probe_kernels() -> ProbeKernels:
    """Copies over all threads, and three that end badly: far outside their buffers, never, and for want of
    memory. The oversized one asks for 64 TiB, which no host has."""
    greedy = _ENTRY.replace("y = torch.empty_like(x)", "y = torch.empty(1 << 44)")
    return ProbeKernels(
        elements=_ELEMENTS,
        copy=_probe(_COPY),
        copy_twice=_probe(_COPY),
        empty=_probe("  (void)x, (void)y, (void)n;"),
        out_of_range=_probe("  y[0] = x[n << 20];"),
        endless=_probe("  for (volatile int64_t i = 0;; i = i + 1) y[0] = x[i % n];"),
        oversized=_probe("  for (int64_t i = 0; i < n; i++) y[i] = 0;", greedy),
    )
