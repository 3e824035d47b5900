"""Opens a shared library at its top."""

import ctypes

from kevolve_toy.plugin import kevolve_register

LIBRARY = ctypes.CDLL("libm.so.6")

__all__ = ["LIBRARY", "kevolve_register"]
