"""Kernels as deliverables: one file that runs without Kevolve."""

from kevolve_core.bundle.export import export
from kevolve_core.bundle.seeded import with_reference_weights

__all__ = ["export", "with_reference_weights"]
