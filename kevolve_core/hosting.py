"""Programs on a device that PyTorch does not know: what runs on the host, around the kernels.

A lowered program is more than its kernels: it takes arguments and weights, needs room for what lies between,
and gives back a tree of results. `host_plan` writes that down as a JSON value. A compiler keeps it with the
kernels in one file (`Hosted`), and a `HostedRunner` carries it out in a worker with the few primitives that
only the vendor can write. A backend whose candidates have host code of their own in Python needs none of
this.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from attrs import asdict, define, frozen

from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.interfaces import Runner
from kevolve_core.ir import Program
from kevolve_core.model import Artifact

__all__ = ["DeviceArray", "Hosted", "HostedProgram", "HostedRunner", "host_plan"]


@define(eq=False)
class DeviceArray:
    """A tensor in the device's memory: what a `HostedRunner` uploads and downloads.

    Args:
        memory: whatever names a piece of the device's memory.
        shape, strides, offset: how the tensor lies in it, in elements.
    """

    memory: Any
    shape: Sequence[int]
    strides: Sequence[int]
    offset: int = 0


@frozen
class Hosted:
    """A compiled program of one case.

    Args:
        entry: the name that the candidate exports: its symbol, or ``ModelNew``.
        plan: what `host_plan` wrote.
        kernels: JSON values, each of which `HostedRunner.launch` runs; in order.
    """

    entry: str
    plan: Mapping[str, Any]
    kernels: Sequence[Any]

    def text(self) -> str:
        """As a compiler keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Hosted:
        return cls(**json.loads(text))


class HostedRunner(Runner, Protocol):
    """A runner of `Hosted` programs, one binary an artefact: buffers are `DeviceArray`.

    What is left to the vendor: memory, a launch, and the clock of `Runner`.
    """

    #: Element types of the device.
    dtypes: Collection[str]

    @abstractmethod
    def allocate(self, dtype: str, elements: int) -> Any:
        """Device memory for so many elements. Raises MemoryError where there is not so much."""
        ...

    @abstractmethod
    def write(self, memory: Any, content: Any) -> None:
        """Fill what `allocate` gave from a 1-d CPU tensor of its size."""
        ...

    @abstractmethod
    def read(self, memory: Any) -> Any:
        """All of what `allocate` gave, as a 1-d CPU tensor or NumPy array of its own."""
        ...

    @abstractmethod
    def launch(self, kernel: Any, memory: Mapping[str, Any]) -> None:
        """Run one kernel on memory by buffer name; may return before it has ended."""
        ...

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        del candidate_dir
        if len(artifact.binaries) != 1:
            raise KevolveError(
                "a hosted program is one file",
                got=", ".join(artifact.binaries) or "none",
                where="Artifact.binaries",
                mend="keep `Hosted.text()` in the file that the compiler names",
            )
        (file,) = artifact.binaries.values()
        program = Hosted.read(Path(file).read_text())
        return SimpleNamespace(**{program.entry: HostedProgram(self, program)})

    def upload(self, tensor: Any, *, guarded: bool = False) -> DeviceArray:
        del guarded
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in self.dtypes:
            raise UnsupportedError(
                "the device has no such element type", got=dtype, mend=f"it has {', '.join(self.dtypes)}"
            )
        # All between the first and the last element, so that the strides hold on the device.
        elements = _extent(tensor.shape, tensor.stride())
        memory = self.allocate(dtype, elements)
        self.write(memory, tensor.detach().as_strided((elements,), (1,)))
        return DeviceArray(memory, tuple(tensor.shape), tensor.stride())

    def download(self, buffer: DeviceArray) -> Any:
        import torch  # late: a plugin may import this module at its top

        content = torch.as_tensor(self.read(buffer.memory))
        return content.as_strided(tuple(buffer.shape), tuple(buffer.strides), buffer.offset)


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def host_plan(program: Program) -> dict[str, Any]:
    """The host's part of ``program`` as a JSON value."""
    return {
        "buffers": [
            [b.name, b.role, b.source, b.dtype, list(b.shape), list(b.stride), b.data]
            for b in program.buffers.values()
        ],
        "outputs": [[o.buffer, list(o.shape), list(o.strides), o.offset] for o in program.outputs],
        "structure": _tagged(program.structure),
    }


class HostedProgram:
    """A loaded program: called with uploaded arguments, it launches its kernels, and returns `DeviceArray` in
    the reference's structure. Weights come by `load_state_dict`, as the contract of `Runner.load` has it.
    """

    def __init__(self, runner: HostedRunner, program: Hosted) -> None:
        self._runner, self._program = runner, program
        self._weights: dict[str, DeviceArray] = {}

    def load_state_dict(self, weights: Mapping[str, DeviceArray]) -> None:
        """Take the reference's weights, by name."""
        self._weights = dict(weights)

    def __call__(self, *arguments: Any) -> Any:
        memory = {name: self._memory(arguments, *row) for name, *row in self._program.plan["buffers"]}
        for kernel in self._program.kernels:
            self._runner.launch(kernel, memory)
        leaves = [DeviceArray(memory[name], *layout) for name, *layout in self._program.plan["outputs"]]
        return _filled(self._program.plan["structure"], leaves)

    def _memory(
        self,
        arguments: Sequence[Any],
        role: str,
        source: str,
        dtype: str,
        shape: Sequence[int],
        strides: Sequence[int],
        data: Any,
    ) -> Any:
        if role == "input":
            return self._laid_out(arguments[int(source)], shape, strides)
        if role == "param":
            return self._laid_out(self._weights[source], shape, strides)
        if role == "constant":
            import torch

            return self._runner.upload(torch.tensor(data, dtype=getattr(torch, dtype))).memory
        return self._runner.allocate(dtype, _extent(shape, strides))

    def _laid_out(self, given: DeviceArray, shape: Sequence[int], strides: Sequence[int]) -> Any:
        """The memory of an argument; of a copy where it does not lie as the kernels take it to."""
        moved = any(n > 1 and s != t for n, s, t in zip(shape, given.strides, strides, strict=True))
        if not moved and not given.offset:
            return given.memory
        import torch

        tensor = self._runner.download(given)
        copy = torch.empty_strided(tuple(shape), tuple(strides), dtype=tensor.dtype)
        return self._runner.upload(copy.copy_(tensor)).memory


def _tagged(node: Any) -> Any:
    """A structure with leaf numbers, in which JSON keeps tuples and lists apart."""
    if isinstance(node, Mapping):
        return {"dict": {str(key): _tagged(value) for key, value in node.items()}}
    if isinstance(node, list | tuple):
        return {"tuple" if isinstance(node, tuple) else "list": [_tagged(value) for value in node]}
    return node


def _filled(node: Any, leaves: Sequence[Any]) -> Any:
    if not isinstance(node, Mapping):
        return leaves[node]
    ((kind, inside),) = node.items()
    if kind == "dict":
        return {key: _filled(value, leaves) for key, value in inside.items()}
    return (tuple if kind == "tuple" else list)(_filled(value, leaves) for value in inside)
