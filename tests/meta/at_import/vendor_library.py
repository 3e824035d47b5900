"""Imports the vendor's library at its top."""

import acme_driver  # noqa: F401
from kevolve_toy.plugin import kevolve_register

__all__ = ["kevolve_register"]
