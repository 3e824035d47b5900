"""The CPU backend keeps the plugin contract: `kevolve_core.testing`."""

from kevolve_core.testing.conformance import *  # noqa: F403
