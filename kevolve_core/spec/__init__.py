"""Kernel specifications: loading, checking, writing, and making them from functions.

`runtime` runs references, for worker processes only, and `from_function` makes specifications from live
functions; both import torch and are not imported here.
"""

from kevolve_core.spec.dump import dump_spec
from kevolve_core.spec.load import load_seed, load_spec, parse_spec

__all__ = ["dump_spec", "load_seed", "load_spec", "parse_spec"]
