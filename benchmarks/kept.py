"""Sweeps that can be stopped and gone on with: what is done is kept in a file, a line a job."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from attrs import define

__all__ = ["Kept"]

_SOURCES = ("kevolve_core/evolve", "kevolve_core/knowledge/experience/lanes.py", "kevolve_core/space.py")
_ROOT = Path(__file__).resolve().parents[1]


@define
class Kept:
    """Results of jobs by their arguments and by the source that they depend on, so that a result of other
    code is not taken for this one's.

    Args:
        file: where they are kept; None: nowhere.
        seconds: from now on, after which no job is begun any more.
        sources: files and folders of the repository beside the work's own; by default the search's.
    """

    file: Path | None = None
    seconds: float = float("inf")
    sources: Sequence[str] = _SOURCES
    _end: float = float("inf")

    def __attrs_post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    def map(self, work: Callable[[Any], Any], jobs: Sequence[tuple[Any, ...]], workers: int) -> list[Any]:
        """What ``work`` makes of each job, in order. Raises SystemExit when the time is up before that."""
        source = _source(work, self.sources)
        keys = [json.dumps([source, *_named(job)]) for job in jobs]
        known = self._known()
        todo = [n for n, key in enumerate(keys) if key not in known]
        with ProcessPoolExecutor(workers) as pool:
            flying: dict[Future[Any], int] = {}
            while (todo and time.monotonic() < self._end) or flying:
                while todo and len(flying) < 2 * workers and time.monotonic() < self._end:
                    n = todo.pop(0)
                    flying[pool.submit(work, jobs[n])] = n
                for done in wait(flying, return_when=FIRST_COMPLETED).done:
                    n = flying.pop(done)
                    known[keys[n]] = done.result()
                    self._keep(keys[n], known[keys[n]])
        if todo:
            raise SystemExit(f"{len(todo)} of {len(jobs)} searches are left: run the same command again")
        return [known[key] for key in keys]

    def each(
        self, work: Callable[[Any], Any], jobs: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Each job and what ``work`` makes of it, one after another in this process, those that are known
        without doing them again. Raises SystemExit when the time is up before the last."""
        source, known = _source(work, self.sources), self._known()
        for done, job in enumerate(jobs):
            key = json.dumps([source, *_named(job)])
            if key not in known:
                if time.monotonic() >= self._end:
                    left = len(jobs) - done
                    raise SystemExit(f"{left} of {len(jobs)} jobs are left: run the same command again")
                known[key] = work(job)
                self._keep(key, known[key])
            yield job, known[key]

    def _known(self) -> dict[str, Any]:
        if self.file is None or not self.file.exists():
            return {}
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return {line["job"]: line["gave"] for line in lines}

    def _keep(self, key: str, gave: Any) -> None:
        if self.file is not None:
            with self.file.open("a") as out:
                out.write(json.dumps({"job": key, "gave": gave}) + "\n")


def _named(job: Sequence[Any]) -> list[Any]:
    return [each.name if isinstance(each, Path) else each for each in job]


def _source(work: Callable[[Any], Any], sources: Sequence[str]) -> str:
    """A hash of the code that a result depends on."""
    files = [Path(__file__).with_name("recorded.py"), Path(work.__code__.co_filename)]
    for name in sources:
        place = _ROOT / name
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    digest = hashlib.sha256(work.__name__.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
