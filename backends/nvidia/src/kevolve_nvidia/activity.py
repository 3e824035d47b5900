"""What runs beside a candidate on a GPU's host: threads that neither CUDA nor PyTorch made."""

from __future__ import annotations

from pathlib import Path

from attrs import define, field

__all__ = ["ThreadWatch"]

_TASKS = Path("/proc/self/task")
#: Names of threads that the driver, CUPTI, cuBLAS' and PyTorch's pools, and Triton start as they need them.
_OWN = ("cuda-", "cuda0", "CUPTI", "pt_", "nvidia", "gomp", "omp", "triton", "python-nvrtc", "Event")


@define
class ThreadWatch:
    """Takes note of the threads that are there, and later reports others.

    A Python candidate cannot import threads at all; this looks for those that a library starts for it. The
    driver's own threads are told by their names, which only native host code could forge, and this backend's
    languages have none.
    """

    _known: set[str] = field(factory=set, init=False)

    def arm(self) -> None:
        self._known = {p.name for p in _TASKS.iterdir()}

    def check(self) -> str:
        """Threads that are new and not the driver's, in words, or ""."""
        found = []
        for task in _TASKS.iterdir():
            if task.name in self._known:
                continue
            try:
                name = (task / "comm").read_text().strip()
            except OSError:
                continue  # it has ended meanwhile
            if name.startswith(_OWN):
                self._known.add(task.name)
            else:
                found.append(name)
        return f"{len(found)} new thread(s), e.g. '{found[0]}'" if found else ""
