"""The loop IR as C++17 with OpenMP."""

from kevolve_cpu.render.renderer import CppRenderer

__all__ = ["CppRenderer"]
