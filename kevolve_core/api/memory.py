"""What a run may remember of others: from the registry's knowledge to the loop's lanes."""

from __future__ import annotations

from kevolve_core.api.parts import Place
from kevolve_core.errors import ConfigError, suggest
from kevolve_core.evolve import Memory, MixedGenerator
from kevolve_core.interfaces import CodeGenerator, Learner
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge import Page

__all__ = ["MODES", "memory_of", "resumed_memory"]

MODES = ("off", "warm", "split")
_GENOMES = 3  # experience to start from: more would leave a short run no drafts of its own (estimated)


def memory_of(mode: str, where: Place, spec: KernelSpec, generator: CodeGenerator) -> Memory | None:
    """The lanes of a new run. None where there is nothing to remember: no experience with a similar
    specification, and no generator that learns from knowledge.

    Raises:
        ConfigError: no such mode.
    """
    if mode not in MODES:
        raise ConfigError(
            "there is no such use of memory",
            got=mode,
            mend=suggest(mode, MODES) or f"one of: {', '.join(MODES)}",
        )
    if mode == "off":
        return Memory("off")
    from kevolve_core.knowledge import base_for  # pages are read only by runs that may use them
    from kevolve_core.knowledge.experience import Memory as Experience

    learns = generator.learns if isinstance(generator, MixedGenerator) else isinstance(generator, Learner)
    base = base_for(where.registry, [where.backend_name])
    found = Experience(p for p in base.pages if _usable(p, where)).warm(spec, where.device, k=_GENOMES)
    if not found and not learns:
        return None
    return _memory(mode, tuple(dict(warm.genome) for warm in found))


def _usable(page: Page, where: Place) -> bool:
    """A genome carries no taint but its run's: what is confidential starts only runs of the confidential
    backend that it was learned on, and where it derives from nothing else."""
    if not page.confidential:
        return True
    own = {f"page:{page.id}", f"backend:{where.backend_name}"}
    known = page.data.get("backend") == where.backend_name
    return where.backend.manifest.confidential and known and page.taint <= own


def resumed_memory(mode: str | None) -> Memory | None:
    """The same lanes again, before anything is folded into them."""
    return None if mode is None else _memory(mode, ())


def _memory(mode: str, experience: tuple[dict[str, object], ...]) -> Memory:
    if mode != "split":
        return Memory(mode, experience=experience)
    from kevolve_core.knowledge.experience import Lanes

    return Memory(mode, Lanes(), experience)
