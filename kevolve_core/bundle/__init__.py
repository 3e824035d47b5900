"""Kernels as deliverables: one file that runs without Kevolve."""

from kevolve_core.bundle.export import export

__all__ = ["export"]
