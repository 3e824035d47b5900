"""Stands for what `kevolve_nvidia.graphs` asks of ``torch.cuda``: work that is launched runs on the CPU at
once, or goes into the graph that is being captured and runs at its replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from kevolve_nvidia import graphs

Work = Callable[[], Any]


class Stream:
    """One stream; waiting is noted."""

    def __init__(self, cuda: RecordedCuda, number: int) -> None:
        self._cuda, self.number, self.device = cuda, number, torch.device("cpu")
        self.cuda_stream = number

    def wait_stream(self, other: Stream) -> None:
        self._cuda.log.append(f"{self.number} waits for {other.number}")


class Graph:
    """What was launched while it was captured."""

    def __init__(self, cuda: RecordedCuda) -> None:
        self._cuda, self.work = cuda, list[Work]()

    def replay(self) -> None:
        self._cuda.log.append(f"replay of {len(self.work)}")
        for work in self.work:
            work()


class RecordedCuda:
    """``torch.cuda`` with one device; ``log`` says what was asked of it. A reader that waits for the device
    (`item`) breaks a capture, as CUDA has it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = Stream(self, 0)
        self.capturing: Graph | None = None
        self._streams = 0
        patch.setattr(graphs, "_DEVICE", "cpu")
        patch.setattr(graphs, "_abandoned", lambda device, pool: self.log.append(f"abandoned {pool}"))  # noqa: ARG005
        patch.setattr(torch.cuda, "current_stream", lambda _=None: self.current)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing is not None)
        patch.setattr(torch.cuda, "Stream", self._stream)
        patch.setattr(torch.cuda, "stream", self._on)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        patch.setattr(torch.cuda, "graph", self._capture)

    def launch(self, work: Work) -> None:
        """What a kernel's launch does."""
        if self.capturing is None:
            self.log.append("launch")
            work()
        else:
            self.capturing.work.append(work)

    def item(self, tensor: torch.Tensor) -> float:
        """A value read on the host."""
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return float(tensor)

    def other_stream(self) -> Stream:
        self._streams += 1
        return Stream(self, self._streams)

    def _stream(self, _: Any = None) -> Stream:
        return self.other_stream()

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _capture(self, graph: Graph, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        before, self.current, self.capturing = self.current, options["stream"], graph
        try:
            yield
        except RuntimeError as error:  # as PyTorch does, which stays on the stream
            raise RuntimeError("operation failed due to a previous error during capture") from error
        finally:
            self.capturing = None
        self.current = before
