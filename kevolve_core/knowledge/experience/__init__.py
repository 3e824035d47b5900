"""What runs have taught: signatures, skills distilled from runs, warm starts, lanes with and without them."""

from kevolve_core.knowledge.experience.lanes import COLD, WARM, LaneReport, Lanes
from kevolve_core.knowledge.experience.memory import Memory, Warm
from kevolve_core.knowledge.experience.signature import Signature, signature_of

__all__ = ["COLD", "WARM", "LaneReport", "Lanes", "Memory", "Signature", "Warm", "signature_of"]
