"""Problems of a KernelBench checkout: ``level<N>/<number>_<name>.py``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.spec.sources import parse_reference

__all__ = ["DEGENERATE", "Problem", "find_problems", "spec_of"]

_FILE = re.compile(r"^(\d+)_(.+)\.py$")

#: Problems that no benchmark of kernels should count: their output is a constant, or float noise around zero
#: (2/23), or depends on a state that the reference draws while it runs (3/35). Found by running them.
DEGENERATE: dict[tuple[int, int], str] = {
    (2, 9): "its output is constant",
    (2, 23): "its output is float noise around zero",
    (2, 36): "its output is constant",
    (2, 58): "its output is constant",
    (2, 80): "its output is constant",
    (2, 83): "its output is constant",
    (3, 35): "it draws a random state while it runs",
}


@frozen
class Problem:
    """One problem's file. ``id`` is ``level/number``."""

    level: int
    number: int
    name: str
    path: Path

    @property
    def id(self) -> str:
        return f"{self.level}/{self.number}"

    @property
    def degenerate(self) -> str:
        """Why it counts apart, or ""."""
        return DEGENERATE.get((self.level, self.number), "")


def find_problems(root: str | Path, levels: Sequence[int], only: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Problems of ``levels`` under ``root``, by level and number.

    Args:
        root: a checkout of KernelBench, or the folder in it that has ``level1``.
        levels: 1 to 4.
        only: ids (``1/23``) to keep; all where empty.

    Raises:
        SpecError: no such checkout or level, or an id that it does not have.
    """
    base = Path(root)
    home = next((p for p in (base, base / "KernelBench") if (p / "level1").is_dir()), None)
    if home is None:
        raise SpecError(
            "this is no checkout of KernelBench",
            got=str(root),
            mend="give --root the folder that has level1, level2 and level3 (KernelBench/ in its repository)",
        )
    found: list[Problem] = []
    for level in levels:
        folder = home / f"level{level}"
        if not folder.is_dir():
            raise SpecError("the checkout has no such level", got=str(level), where=str(home))
        for file in folder.iterdir():
            if match := _FILE.match(file.name):
                found.append(Problem(level, int(match[1]), match[2], file))
    found.sort(key=lambda p: (p.level, p.number))
    if only:
        known = {p.id for p in found}
        if missing := [i for i in only if i not in known]:
            raise SpecError("there is no such problem in these levels", got=missing[0], where=str(home))
        found = [p for p in found if p.id in set(only)]
    return tuple(found)


def spec_of(problem: Problem, source: str, mode: str = "eval") -> KernelSpec:
    """The specification of ``problem`` with ``source`` (its file's text, perhaps with other sizes).

    Args:
        mode: of its module, ``eval`` or ``train``.
    """
    name = f"l{problem.level}_{problem.number}_{re.sub(r'[^A-Za-z0-9_]', '_', problem.name)}"
    reference = parse_reference(
        {"python": source}, problem.path.parent, str(problem.path), name, False, False
    )
    if not reference.inputs_from:
        raise SpecError("the problem defines no get_inputs()", where=str(problem.path))
    return KernelSpec(name, reference, (Case("default"),), mode=mode)
