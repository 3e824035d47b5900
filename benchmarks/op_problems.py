"""The problems of op_suite.py: one line each, ``name | expression | inputs``.

An expression may use torch, F (torch.nn.functional), math, and the inputs. An input is
``name=dtype:shape``, then optionally ``@low..high`` (integers in [low, high), floats uniform) and
``#layout`` (``transposed``, ``strided`` or ``offset``, tried beside the contiguous one). A shape is sizes
with commas, or ``-`` for a scalar tensor.
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Reference

__all__ = ["Problem", "problems"]

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "i64": "int64",
           "i32": "int32", "u8": "uint8", "b": "bool"}  # fmt: skip


@frozen
class Problem:
    """One problem: its family (``operator`` or ``block``) and its specification."""

    name: str
    family: str
    spec: KernelSpec


def _inputs(text: str) -> tuple[InputSpec, ...]:
    found = []
    for word in text.split():
        name, _, rest = word.partition("=")
        rest, _, layout = rest.partition("#")
        rest, _, bounds = rest.partition("@")
        kind, _, sizes = rest.partition(":")
        dtype = _DTYPES[kind]
        shape = () if sizes == "-" else tuple(int(n) for n in sizes.split(","))
        whole = dtype.startswith(("int", "uint"))
        if bounds:
            low, high = (int(b) if whole else float(b) for b in bounds.split(".."))
            drawn = Distribution("integers" if whole else "uniform", low, high)
        elif dtype == "bool":
            drawn = Distribution("bernoulli", None, 0.5)
        else:
            drawn = Distribution("integers", 0, 10) if whole else Distribution()
        layouts = ("contiguous", *([layout] if layout else []))
        found.append(InputSpec(name, shape, dtype, drawn, layouts))
    return tuple(found)


def _problem(name: str, family: str, expression: str, inputs: str) -> Problem:
    given = _inputs(inputs)
    body = f"def f({', '.join(s.name for s in given)}):\n    return {expression}\n"
    source = f"import math\n\nimport torch\nimport torch.nn.functional as F\n\n\n{body}"
    spec = KernelSpec(name, Reference(source, "f"), (Case("default", given),))
    return Problem(name, family, spec)


def problems(file: Path | None = None) -> tuple[Problem, ...]:
    """Every problem of ``file`` (by default ``op_problems.txt``), which has a family a section."""
    out: list[Problem] = []
    family = ""
    text = (file or Path(__file__).with_suffix(".txt")).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("["):
            family = line.strip("[]")
        elif line and not line.startswith("#"):
            name, expression, inputs = line.split(" | ")
            out.append(_problem(name, family, expression, inputs))
    return tuple(out)
