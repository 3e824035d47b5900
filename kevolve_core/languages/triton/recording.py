"""The recording driver: runs a candidate's host code without its device and collects its kernel launches.

A candidate's entry is called on CPU or meta tensors. Its library calls run in PyTorch on those tensors; its
Triton kernels do not run: each launch is noted with everything that a compiler or an emulator needs. So a
kernel can be compiled ahead for a target that is not there, an emulator can execute launch by launch
(``on_launch``), and a script written for a GPU can be tried on a CPU first.

One recording at a time in a process; another thread waits. What touches Triton's internals is in
`kevolve_core.languages.triton.internals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

from kevolve_core.errors import CompileError, KevolveError, UnsupportedError
from kevolve_core.model import content_hash, freeze

__all__ = ["Launch", "TritonTarget", "compile_launch", "kernel_key", "launch_key", "record"]

_lock = RLock()


@frozen
class TritonTarget:
    """What Triton compiles for: its ``backend`` (the name Triton gives it), ``arch`` (an int or a name, as
    that backend wants it) and lanes a warp; the three fields of Triton's ``GPUTarget``.

    ``properties`` are what host code that asks for the device's properties is told, under both PyTorch's and
    Triton's names (``multi_processor_count``, ``shared_memory_per_block_optin``, ``max_shared_mem`` …).
    """

    backend: str
    arch: int | str
    warp_size: int = 32
    properties: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)


@frozen(eq=False)
class Launch:
    """One launch of a Triton kernel.

    Args:
        kernel: the ``triton.JITFunction``.
        name: its name.
        grid: programs along the three axes.
        arguments: parameter -> value as launched (tensors, scalars, constexprs), in order. Tensors are the
            candidate's own objects: an executor that runs the launch reads and writes them.
        options: launch options that were given (``num_warps``, ``num_stages``, ``num_ctas``, …).
        signature: parameter -> Triton type (``*fp32``, ``i32``, ``constexpr``, …).
        constexprs: path of a parameter (its position, and positions inside tuples) -> constant; values that
            Triton specialises on (an integer 1, None) are among them.
        attributes: path -> attributes Triton specialises on, such as ``[["tt.divisibility", 16]]``.
        target: for what it was specialised.
        tuning: an autotuner tried this configuration; the launch is not part of the program.
    """

    kernel: Any
    name: str
    grid: tuple[int, int, int]
    arguments: Mapping[str, Any] = field(converter=freeze)
    options: Mapping[str, Any] = field(converter=freeze)
    signature: Mapping[str, Any] = field(converter=freeze)
    constexprs: Mapping[tuple[int, ...], Any] = field(converter=freeze)
    attributes: Mapping[tuple[int, ...], Any] = field(converter=freeze)
    target: TritonTarget
    tuning: bool = False

    @property
    def programs(self) -> int:
        """Programs of the whole grid."""
        return math.prod(self.grid)

    @property
    def tensors(self) -> Mapping[str, Any]:
        """The tensor arguments (of tensor descriptors, their bases)."""
        found: dict[str, Any] = {}
        for name, value in self.arguments.items():
            base = getattr(value, "base", None) if type(value).__name__ == "TensorDescriptor" else value
            if hasattr(base, "data_ptr"):
                found[name] = base
        return MappingProxyType(found)


def record(
    call: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: TritonTarget,
    on_launch: Callable[[Launch], None] | None = None,
    keep_tuning: bool = False,
) -> tuple[Launch, ...]:
    """Call ``call(*args, **kwargs)`` and collect its launches, in order.

    Args:
        call: a candidate's entry: a function, or an instance of ``ModelNew``.
        args: tensors on the CPU or on ``meta``, and plain values.
        kwargs: further arguments.
        target: what kernels are specialised for, and what host code is told it runs on. Factory calls that
            name a device this machine lacks get the inputs' device.
        on_launch: called at each launch before host code goes on: an emulator executes it here, so that what
            follows reads its results. Without it, tensors that kernels would write hold what they held.
        keep_tuning: also collect (and hand to ``on_launch``) the launches by which an autotuner tries its
            configurations. Otherwise an autotuner is taken to prefer its first.

    Raises:
        UnsupportedError: Triton is interpreting (``TRITON_INTERPRET``), or is of no supported version.
        ToolchainMissingError: Triton is not installed.
        Exception: whatever the host code raises.
    """
    from kevolve_core.languages.triton import internals

    internals.require()
    found: list[Launch] = []

    def note(launch: Launch) -> None:
        if launch.tuning and not keep_tuning:
            return
        found.append(launch)
        if on_launch is not None:
            on_launch(launch)

    with _lock, internals.recording(target, note), _host(args, target):
        call(*args, **dict(kwargs or {}))
    return tuple(found)


@contextmanager
def _host(args: Sequence[Any], target: TritonTarget) -> Iterator[None]:
    """Host code that names the target's device meets the inputs' device instead, and no gradient."""
    import torch

    from kevolve_core.languages.triton.host import device_names

    devices = [a.device for a in args if isinstance(a, torch.Tensor)]
    with device_names(devices[0] if devices else torch.device("cpu"), target), torch.no_grad():
        yield


def compile_launch(launch: Launch, target: TritonTarget | None = None) -> Any:
    """Compile ``launch`` ahead, without a device: Triton's ``CompiledKernel``, whose ``asm`` has the text of
    every stage and the binary, and whose ``metadata`` has shared memory, warps and the kernel's name. It goes
    through Triton's own cache (``TRITON_CACHE_DIR``).

    Args:
        launch: what `record` gave.
        target: another target than it was recorded for; it is specialised anew.

    Raises:
        CompileError: Triton or its assembler refused the kernel; ``log`` is what they said.
        UnsupportedError: this Triton has no compiler for the target.
    """
    from kevolve_core.languages.triton import internals

    internals.require()
    target = target or launch.target
    with _lock:
        if target != launch.target:
            launch = internals.specialised(
                launch.kernel, launch.arguments, launch.options, launch.grid, target, launch.tuning
            )
    try:
        return internals.compiled(launch)
    except KevolveError:
        raise
    except Exception as error:
        raise CompileError(
            f"Triton cannot compile kernel '{launch.name}' for {target.backend} {target.arch}",
            log=internals.log_of(error),
            got=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}",
            where=launch.name,
        ) from error


def launch_key(launch: Launch) -> str:
    """A content hash of all that `compile_launch` depends on besides Triton's version: source (of functions
    it calls too), specialisation, options and target. Equal keys compile to equal binaries."""
    if not hasattr(launch.kernel, "cache_key"):
        raise UnsupportedError("a launch without a Triton function has no key", got=launch.name)
    types = [[k, str(v)] for k, v in launch.signature.items()]
    return _key(launch, launch.kernel.cache_key, types)


def kernel_key(launch: Launch) -> str:
    """As `launch_key`, but the same wherever in a file the functions stand and whatever the kernel and its
    variables are called, and with Triton's version: names a kernel across steps and candidates."""
    from kevolve_core.languages.triton import internals

    types = [str(v) for v in launch.signature.values()]
    return _key(launch, f"{internals.version()} {internals.nameless_key(launch.kernel)}", types)


def _key(launch: Launch, source: str, signature: Sequence[Any]) -> str:
    return content_hash(
        {
            "source": source,
            "signature": list(signature),
            "constexprs": sorted([str(k), _constant(v)] for k, v in launch.constexprs.items()),
            "attributes": sorted([str(k), str(v)] for k, v in launch.attributes.items()),
            "options": {k: str(v) for k, v in launch.options.items()},
            "target": [launch.target.backend, launch.target.arch, launch.target.warp_size],
        }
    )


def _constant(value: Any) -> str:
    return str(value.cache_key) if hasattr(value, "cache_key") else repr(value)
