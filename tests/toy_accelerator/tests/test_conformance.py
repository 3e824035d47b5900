from kevolve_core.testing.conformance import *  # noqa: F403
