"""Candidates for the scaled-softmax spec: an honest one, broken ones and cheats."""

from __future__ import annotations

HONEST_CPP = r"""
#include <cmath>
#include <cstdint>
extern "C" void scaled_softmax(const float* x, const float* w, float* out, int64_t rows, int64_t columns) {
#pragma omp parallel for
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x + i * columns;
    float* result = out + i * columns;
    float highest = -INFINITY;
    for (int64_t j = 0; j < columns; ++j) {
      const float v = row[j] * w[j];
      highest = std::isnan(v) || v > highest ? v : highest;
    }
    double total = 0;
    for (int64_t j = 0; j < columns; ++j) total += std::exp(double(row[j] * w[j]) - highest);
    for (int64_t j = 0; j < columns; ++j)
      result[j] = float(std::exp(double(row[j] * w[j]) - highest) / total);
  }
}
"""

ENTRY = """
import torch
from kevolve_core.native import load_native

_lib = load_native("kernel.cpp", {"scaled_softmax": "pppll"})

def scaled_softmax(x, w):
    out = torch.empty_like(x)
    _lib.scaled_softmax(x.data_ptr(), w.data_ptr(), out.data_ptr(), x.shape[0], x.shape[1])
    return out
"""


def native(body: str, prelude: str = "") -> dict[str, str]:
    """A candidate whose native function has ``body``, with x, w, out, rows and columns in scope."""
    source = f"""#include <cstdint>
#include <cstdlib>
#include <cmath>
{prelude}
extern "C" void scaled_softmax(const float* x, const float* w, float* out, int64_t rows, int64_t columns) {{
{body}
}}
"""
    return {"kernel.py": ENTRY, "kernel.cpp": source}


def python(body: str, prelude: str = "") -> str:
    """A candidate that is one Python function."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return f"import torch\n{prelude}\ndef scaled_softmax(x, w):\n{lines}\n"


HONEST = {"kernel.py": ENTRY, "kernel.cpp": HONEST_CPP}
