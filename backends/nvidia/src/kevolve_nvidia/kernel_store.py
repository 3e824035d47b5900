"""Compiled Triton kernels by what they are: a candidate finds those that another one had.

Triton's own key has the line at which a function stands and all its names, so the same kernel in the next
step or candidate would be compiled again. Here it is what the kernel and what it calls compute, its
specialisation and options.
A candidate that was stopped half-way leaves what it had compiled to the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define

from kevolve_core.builds import BuildCache
from kevolve_core.languages.triton import Launch, compile_launch, kernel_key
from kevolve_nvidia.triton_run import ArtifactCache

__all__ = ["KernelStore"]


@define
class KernelStore:
    """See the module. Use it inside `kevolve_nvidia.triton_run.kept_in`: a kernel's files go into that folder
    wherever they come from."""

    cache: BuildCache

    def compiled(
        self, launch: Launch, look: Callable[[Any, Path], Mapping[str, Any]]
    ) -> tuple[Any, Mapping[str, Any]]:
        """The kernel, as `kevolve_core.languages.triton.compile_launch` gives it, and what ``look`` found of
        it and its cubin, which is kept too. Builders of one kernel wait for one another."""
        key = kernel_key(launch)
        entry = self.cache.get(key)
        if entry is None:
            with self.cache.building(key) as work:
                if work is not None:
                    kernel = compile_launch(launch)
                    for path in map(Path, kernel.metadata_group.values()):
                        shutil.copyfile(path, work / f"kernel{path.suffix}")
                    found = look(kernel, work / "kernel.cubin")
                    self.cache.publish(key, work, found)
                    return kernel, found
            entry = self.cache.path(key)
        with _taken_from(entry):
            return compile_launch(launch), self.cache.facts(entry)


@contextmanager
def _taken_from(entry: Path) -> Iterator[None]:
    """While active, the kernel that Triton looks for is the one in ``entry``."""
    from triton import knobs

    class Found(ArtifactCache):
        """Gives Triton the files it would have written."""

        def get_group(self, filename: str) -> dict[str, str] | None:
            given = super().get_group(filename)
            if given is not None:
                return given
            stem = filename.removesuffix(".json")
            files = {f"{stem}{path.suffix}": path.read_bytes() for path in entry.glob("kernel.*")}
            self.put_group(filename, {name: self.put(data, name) for name, data in files.items()})
            return super().get_group(filename)

    before = knobs.cache.manager_class
    knobs.cache.manager_class = Found
    try:
        yield
    finally:
        knobs.cache.manager_class = before
