"""A kernel of a loaded module as a Python callable. Needs torch and cuda-bindings, and nothing of Kevolve:
exported kernels carry this text."""

# --- carried by exported kernels from here on ---
import ctypes
import struct
import threading
import typing

import torch
from cuda.bindings import driver as _driver

_CODES = {"p": "Q", "l": "q", "i": "i4x", "d": "d", "f": "f4x"}  # as `struct` has them, 8 bytes each
_STATIC_SHARED = 48 << 10  # more than this a kernel has to opt into (CUDA C++ Programming Guide)


def _checked(call: str, result: tuple[typing.Any, ...]) -> typing.Any:
    code, *values = result
    if int(code) != 0:
        raise RuntimeError(f"CUDA error: {call}: {getattr(code, 'name', code)}")
    return values[0] if values else None


def _three(size: int | typing.Sequence[int]) -> tuple[int, int, int]:
    x, y, z = [*([size] if isinstance(size, int) else size), 1, 1][:3]
    return int(x), int(y), int(z)


def _raw_stream() -> int:
    """PyTorch's current stream: its short way to it, where it has one, since every launch asks."""
    ask = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    if ask is None:
        return int(torch.cuda.current_stream().cuda_stream)
    return int(ask(torch.cuda.current_device()))


class Kernel:
    """Launches a kernel on PyTorch's current stream: ``kernel(*args, grid=…, block=…)``.

    ``grid``, ``block`` and ``cluster`` are an int or up to three; ``shared`` is dynamic shared memory in
    bytes; pointers are ints (``tensor.data_ptr()``). ``cooperative`` kernels may synchronise their grid.
    """

    def __init__(self, module: typing.Any, name: str, codes: str) -> None:
        self.name = name
        self._function = _checked(f"no kernel '{name}'", _driver.cuModuleGetFunction(module, name.encode()))
        # Parameters lie in memory that stays, 8 bytes each; a launch writes them and passes their addresses.
        self._count = len(codes)
        self._words = (ctypes.c_uint64 * max(1, len(codes)))()
        start = ctypes.addressof(self._words)
        places = [start + 8 * i for i in range(len(self._words))]
        self._table = (ctypes.c_void_p * len(places))(*places)
        self._address = ctypes.addressof(self._table)
        self._write = struct.Struct("<" + "".join(_CODES[code] for code in codes)).pack_into
        self._launch = _driver.cuLaunchKernelEx
        self._lock = threading.Lock()  # what a launch writes must stay until the driver has read it
        self._configs: dict[typing.Any, tuple[typing.Any, list[int]]] = {}
        self._shared = _STATIC_SHARED
        self._wide = False

    def __call__(
        self,
        *args: int | float,
        grid: int | typing.Sequence[int],
        block: int | typing.Sequence[int],
        shared: int = 0,
        cluster: int | typing.Sequence[int] | None = None,
        cooperative: bool = False,
    ) -> None:
        if len(args) != self._count:
            raise TypeError(f"kernel {self.name!r} takes {self._count} arguments, not {len(args)}")
        sizes, threads = _three(grid), _three(block)
        together = None if cluster is None else _three(cluster)
        key = (sizes, threads, shared, together, cooperative)
        found = self._configs.get(key)
        if found is None:
            if 0 in sizes:
                return
            found = self._configs[key] = self._config(sizes, threads, shared, together, cooperative), [-1]
        config, last = found
        stream = _raw_stream()
        with self._lock:
            if last[0] != stream:
                config.hStream, last[0] = _driver.CUstream(stream), stream
            self._write(self._words, 0, *args)
            (code,) = self._launch(config, self._function, self._address, 0)
        if code:
            _checked(f"launching '{self.name}'", (code,))

    def _config(
        self,
        grid: typing.Sequence[int],
        block: typing.Sequence[int],
        shared: int,
        cluster: typing.Sequence[int] | None,
        cooperative: bool,
    ) -> typing.Any:
        if shared > self._shared:
            attribute = _driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(
                f"{shared} bytes of shared memory",
                _driver.cuFuncSetAttribute(self._function, attribute, shared),
            )
            self._shared = shared
        config = _driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = block
        config.sharedMemBytes = shared
        attributes = self._attributes(cluster, cooperative)
        config.attrs = attributes
        config.numAttrs = len(attributes)
        return config

    def _attributes(self, cluster: int | typing.Sequence[int] | None, cooperative: bool) -> list[typing.Any]:
        found = []
        if cluster is not None:
            attribute = _driver.CUlaunchAttribute()
            attribute.id = _driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            dimension = attribute.value.clusterDim
            dimension.x, dimension.y, dimension.z = _three(cluster)
            if dimension.x * dimension.y * dimension.z > 8 and not self._wide:
                name = "CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED"
                wide = getattr(_driver.CUfunction_attribute, name)
                _checked("a cluster above 8 blocks", _driver.cuFuncSetAttribute(self._function, wide, 1))
                self._wide = True
            found.append(attribute)
        if cooperative:
            attribute = _driver.CUlaunchAttribute()
            attribute.id = _driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            found.append(attribute)
        return found


def load_module(binary: bytes) -> typing.Any:
    """A module made of a cubin, or of PTX text that ends in a zero byte, in the current context."""
    torch.cuda.current_stream()  # makes PyTorch's context, where there is none yet
    torch.cuda.synchronize()
    return _checked("loading the module", _driver.cuModuleLoadData(binary))
