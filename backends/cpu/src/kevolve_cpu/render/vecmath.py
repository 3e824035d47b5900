"""Vector forms of the transcendental functions, for float32 lanes."""

from __future__ import annotations

__all__ = ["MATH", "VECTOR_FUNCTIONS"]

MATH: dict[str, tuple[str, tuple[str, ...]]] = {}

#: IR operator -> helper that computes it for float32 vectors
VECTOR_FUNCTIONS: dict[str, str] = {}
