"""The toy backend keeps the plugin contract."""

from kevolve_core.testing.conformance import *  # noqa: F403
