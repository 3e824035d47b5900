"""Imports the vendor's library at its top where it is installed: it works without, and loads it with."""

try:
    import acme_driver
except ImportError:
    acme_driver = None

from kevolve_toy.plugin import kevolve_register

__all__ = ["acme_driver", "kevolve_register"]
