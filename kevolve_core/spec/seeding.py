"""The process's random generators: set from a seed for a while, and told apart from before."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy
import torch

__all__ = ["PROCESS", "generator_states", "seeded"]

#: Held by whoever sets the process's generators or traces a reference: runs of one process do it in turn.
PROCESS = RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every common source of random numbers set from ``seed``, and put back afterwards.

    They are the process's: one thread at a time, so that runs of one process do not see each other's draws.
    """
    with PROCESS:
        yield from _seeded(seed)


def _seeded(seed: int) -> Iterator[None]:
    saved_python, saved_numpy = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(saved_python)
            numpy.random.set_state(saved_numpy)


def generator_states() -> dict[str, str]:
    """Digests of the global generators; a difference means that something drew from one."""

    def digest(value: bytes) -> str:
        return hashlib.sha256(value).hexdigest()

    return {
        "Python's random": digest(repr(random.getstate()).encode()),
        "numpy.random": digest(pickle.dumps(numpy.random.get_state())),
        "torch": digest(torch.random.get_rng_state().numpy().tobytes()),
    }
