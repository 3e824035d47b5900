"""From what an agent writes to specifications and candidates."""

from __future__ import annotations

from pathlib import Path

from kevolve_core.api.parts import Place, as_candidate
from kevolve_core.errors import ConfigError, SpecError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.spec import parse_spec
from kevolve_core.spec.checks import read_yaml

__all__ = ["candidate_of", "spec_of_text"]


def spec_of_text(text: str) -> KernelSpec:
    """The specification whose YAML an agent wrote. Raises SpecError."""
    value = read_yaml(text, "spec")
    if not isinstance(value, dict):
        raise SpecError("a specification is a mapping of keys", got=type(value).__name__, where="spec")
    return parse_spec(value, Path.cwd(), where="spec")


def candidate_of(
    spec: KernelSpec, where: Place, files: dict[str, str] | None, path: str, entry: str, language: str
) -> Candidate:
    """The candidate that an agent means: files or a path, of a language that the backend takes.

    Raises:
        ConfigError: what is missing or cannot be, and its mend.
    """
    if bool(files) == bool(path):
        raise ConfigError("a candidate is either files or a path", mend="give one of the two")
    if path:
        return as_candidate(path, spec)
    assert files is not None
    modules = [name for name in files if name.endswith(".py")]
    entry = entry or (modules[0] if len(modules) == 1 else "")
    if entry not in files:
        raise ConfigError(
            "the entry is not among the files", got=entry or modules or list(files), mend="name it: entry=…"
        )
    unsafe = [name for name in files if name.startswith("/") or ".." in Path(name).parts]
    if unsafe:
        raise ConfigError("files have paths inside the candidate", got=unsafe[0])
    taken = where.backend.manifest.languages
    language = language or (taken[0] if len(taken) == 1 else "")
    if language not in taken:
        raise ConfigError(
            f"backend '{where.backend_name}' does not take this language",
            got=language or "no language",
            mend=f"one of: {', '.join(taken)}",
        )
    symbol = "" if spec.reference.kind == "module" else spec.reference.symbol
    return Candidate(files=files, entry=entry, language=language, symbol=symbol)
