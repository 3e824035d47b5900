"""Texts that generated candidates carry: what stands in this folder's modules below a mark."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["carried", "imports"]

_MARK = "# --- carried by generated candidates from here on ---\n"


def _parts(module: str) -> tuple[str, str]:
    text = Path(__file__).with_name(f"{module}.py").read_text().partition(_MARK)[2]
    head, _, body = re.sub(r"  # noqa.*", "", text).partition("\n\n\n")
    return head, body.strip()


def imports(*modules: str) -> tuple[str, ...]:
    """The import lines of ``modules``, that of PyTorch left out: every candidate has it."""
    lines = [line for m in modules for line in _parts(m)[0].splitlines()]
    return tuple(line for line in dict.fromkeys(lines) if line != "import torch")


def carried(*modules: str) -> tuple[str, ...]:
    """What ``modules`` define."""
    return tuple(_parts(m)[1] for m in modules)
