"""Running Triton kernels that were compiled ahead: a driver for Triton that needs no C compiler, no ptxas and
no file that it could write.

Triton's own driver builds a launcher in C for every signature. This one launches through cuda-bindings, and
finds binaries in the artifact. Everything here touches Triton's internals; tested with 3.6,
written against 3.6 to 3.9: ``DriverBase``, ``launcher_cls``, ``utils.load_binary``, ``CacheManager``,
``knobs.cache``.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_nvidia.driver import api, checked
from kevolve_nvidia.tensor_maps import TensorMap, tensor_map

__all__ = ["TRITON_FOLDER", "ArtifactCache", "activate", "deactivate", "kept_in", "warm"]

#: Folder of an artifact in which Triton's files lie, one folder a kernel.
TRITON_FOLDER = "triton"

#: Triton's type -> what goes into a parameter buffer. Floats below 32 bits travel as their bits.
_CTYPES: Mapping[str, Any] = {
    "i1": ctypes.c_int8, "i8": ctypes.c_int8, "i16": ctypes.c_int16, "i32": ctypes.c_int32,
    "i64": ctypes.c_int64, "u1": ctypes.c_uint8, "u8": ctypes.c_uint8, "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32, "u64": ctypes.c_uint64, "fp16": ctypes.c_uint16, "bf16": ctypes.c_uint16,
    "fp32": ctypes.c_float, "f32": ctypes.c_float, "fp64": ctypes.c_double,
}  # fmt: skip
_folder: str = ""
_hooks: Any = None  # Triton's own while a driver of this backend is active


class ArtifactCache:
    """Triton's cache manager (``knobs.cache.manager_class``) over one folder that may move as a whole."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        del override, dump
        self._folder = Path(_folder) / key

    def get_file(self, filename: str) -> str | None:
        path = self._folder / filename
        return str(path) if path.exists() else None

    def get_group(self, filename: str) -> dict[str, str] | None:
        path = self.get_file(f"group.{filename}")
        if path is None:
            return None
        return {name: str(self._folder / name) for name in json.loads(Path(path).read_text())}

    def put(self, data: Any, filename: str, binary: bool = True) -> str:
        del binary
        if not self._folder.parent.exists() or not os.access(self._folder.parent, os.W_OK):
            raise KevolveError(
                "the candidate launches a Triton kernel in a way that was not compiled ahead",
                got=filename,
                mend="launch with the argument types, sizes and options that the spec's cases lead to",
            )
        self._folder.mkdir(exist_ok=True)
        path = self._folder / filename
        draft = path.with_name(f"{filename}.{os.getpid()}")
        if isinstance(data, bytes):
            draft.write_bytes(data)
        else:
            draft.write_text(str(data))
        os.replace(draft, path)
        return str(path)

    def put_group(self, filename: str, group: Mapping[str, str]) -> str:
        return self.put(json.dumps(sorted(group)), f"group.{filename}")


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """While active, what Triton compiles goes into ``folder`` and is found there."""
    global _folder
    from triton import knobs

    before, manager = _folder, knobs.cache.manager_class
    _folder, knobs.cache.manager_class = str(folder), ArtifactCache
    try:
        yield
    finally:
        _folder, knobs.cache.manager_class = before, manager


def warm(capability: int) -> None:
    """Do now what a confined process could not: import Triton, hash it, ask its ptxas for its version."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.cache import get_cache_key

    backend = make_backend(GPUTarget("cuda", capability, 32))
    options = backend.parse_options({})
    get_cache_key(SimpleNamespace(hash=lambda: ""), backend, options, {})


def activate(index: int, capability: int, properties: Mapping[str, Any], folder: Path) -> None:
    """Launch Triton's kernels on device ``index`` from the binaries in ``folder`` from now on."""
    global _folder, _hooks
    from triton import knobs
    from triton.runtime import driver

    _folder, knobs.cache.manager_class = str(folder), ArtifactCache
    if _hooks is None:
        _hooks = knobs.runtime.launch_enter_hook
        knobs.runtime.launch_enter_hook = None  # for a profiler nobody uses here, every launch is described
    driver.set_active(_DeviceDriver(index, capability, properties))


def deactivate() -> None:
    """Give Triton its own driver, cache and hooks back."""
    global _folder, _hooks
    from triton import knobs
    from triton.runtime import driver
    from triton.runtime.cache import FileCacheManager

    _folder, knobs.cache.manager_class = "", FileCacheManager
    if _hooks is not None:
        knobs.runtime.launch_enter_hook, _hooks = _hooks, None
    driver._active = None  # its own is made when it is next asked for: making it starts a C compiler


class _DeviceDriver:
    """See `triton.backends.driver.DriverBase`."""

    def __init__(self, index: int, capability: int, properties: Mapping[str, Any]) -> None:
        import torch

        self._index, self._capability = index, capability
        self.utils = _Utilities(properties)
        self.launcher_cls = _Launcher
        self.get_device_capability = torch.cuda.get_device_capability
        self.get_current_device = torch.cuda.current_device
        self._raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # as Triton's own driver asks
        self.set_current_device = torch.cuda.set_device

    def get_current_stream(self, index: int | None = None) -> int:
        if self._raw_stream is not None:
            return int(self._raw_stream(self._index if index is None else index))
        import torch

        return int(torch.cuda.current_stream(index).cuda_stream)

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cuda", self._index)

    def get_device_interface(self) -> Any:
        import torch

        return torch.cuda

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "CUdeviceptr" if ty.startswith("*") else _CTYPES[ty].__name__

    def get_benchmarker(self) -> Any:
        from triton.testing import do_bench

        return do_bench

    def get_empty_cache_for_benchmark(self) -> Any:
        import torch

        return torch.empty(64 << 20, dtype=torch.int32, device=self.get_active_torch_device())

    def clear_cache(self, cache: Any) -> None:
        cache.zero_()


class _Utilities:
    """What Triton asks of ``driver.active.utils``."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = dict(properties)

    def get_device_properties(self, _: int = 0) -> Mapping[str, Any]:
        return self._properties

    def load_binary(self, name: str, binary: bytes, shared: int, _: int) -> tuple[Any, Any, int, int, int]:
        """(module, function, registers, spilled registers, most threads a block)."""
        driver = api()
        module = checked(f"module '{name}'", driver.cuModuleLoadData(binary))
        function = checked(f"kernel '{name}'", driver.cuModuleGetFunction(module, name.encode()))
        attributes = driver.CUfunction_attribute
        registers, local, threads = (
            checked(
                "cuFuncGetAttribute",
                driver.cuFuncGetAttribute(getattr(attributes, f"CU_FUNC_ATTRIBUTE_{a}"), function),
            )
            for a in ("NUM_REGS", "LOCAL_SIZE_BYTES", "MAX_THREADS_PER_BLOCK")
        )
        if shared > 48 << 10:  # more than this a kernel has to opt into (CUDA C++ Programming Guide)
            opt_in = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            checked(f"{shared} bytes of shared memory", driver.cuFuncSetAttribute(function, opt_in, shared))
        return module, function, int(registers), int(local) // 4, int(threads)

    def fill_tma_descriptor(self, *layout: Any) -> TensorMap:
        """As Triton's C helper of this name; see `kevolve_nvidia.tensor_maps.tensor_map`."""
        return tensor_map(*layout)


class _Launcher:
    """Stands for the launcher in C that Triton would build for a kernel's signature.

    The parameters of a kernel that takes addresses and integers alone lie in memory of this object's, where
    a launch writes what differs from the one before; so does its configuration, one a grid.
    """

    def __init__(self, src: Any, metadata: Any) -> None:
        self._signature = list(src.signature.values())
        self._metadata = metadata
        self._descriptors = list(getattr(metadata, "tensordesc_meta", None) or ())
        self._configs: dict[tuple[int, int, int], tuple[Any, list[int]]] = {}
        self._launch = api().cuLaunchKernelEx
        self._lock = threading.Lock()  # what a launch writes must stay until the driver has read it
        self._packed = None if self._needs_scratch() else _Packed.of(self._signature)

    def __call__(
        self, x: int, y: int, z: int, stream: int, function: Any, packed: Any, _launch_metadata: Any,
        _enter: Any, _leave: Any, *args: Any,
    ) -> None:  # fmt: skip
        found = self._configs.get((x, y, z))
        if found is None:
            if x * y * z == 0:
                return
            found = self._configs[x, y, z] = self._config(x, y, z, packed), [-1]
        config, last = found
        with self._lock:
            if last[0] != stream:
                config.hStream, last[0] = api().CUstream(stream), stream
            parameters: Any = None if self._packed is None else self._packed.filled(args)
            if parameters is None:
                parameters = self._flattened(args, x * y * z, stream)
            (code,) = self._launch(config, function, parameters, 0)
        if code:
            checked(f"kernel '{self._metadata.name}'", (code,))

    def _config(self, x: int, y: int, z: int, packed: Any) -> Any:
        driver = api()
        warps, blocks, shared = packed[:3]
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = x * blocks, y, z
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * warps, 1, 1
        config.sharedMemBytes = shared
        config.attrs = attributes = self._attributes(driver, blocks)
        config.numAttrs = len(attributes)
        return config

    def _flattened(self, args: Sequence[Any], programs: int, stream: int) -> tuple[Any, Any]:
        """Values and types of any kernel's parameters, as cuda-bindings takes them."""
        values: list[Any] = []
        types: list[Any] = []
        descriptors = iter(self._descriptors)
        for kind, value in zip(self._signature, args, strict=True):
            _flatten(kind, value, values, types, descriptors)
        scratch = [self._scratch(which, programs, stream) for which in ("global", "profile")]
        values += [0 if s is None else s.data_ptr() for s in scratch]
        types += [ctypes.c_void_p, ctypes.c_void_p]
        return tuple(values), tuple(types)

    def _needs_scratch(self) -> bool:
        return any(getattr(self._metadata, f"{which}_scratch_size", 0) for which in ("global", "profile"))

    def _scratch(self, which: str, programs: int, stream: int) -> Any:
        size = getattr(self._metadata, f"{which}_scratch_size", 0)
        if not size:
            return None
        from triton.runtime import _allocation

        allocator = _allocation._allocator if which == "global" else _allocation._profile_allocator
        align = getattr(self._metadata, f"{which}_scratch_align", 1)
        allocate = allocator.get() if hasattr(allocator, "get") else allocator
        return allocate(programs * getattr(self._metadata, "num_ctas", 1) * size, align, stream)

    def _attributes(self, driver: Any, blocks: int) -> list[Any]:
        found = []
        ids = driver.CUlaunchAttributeID
        if getattr(self._metadata, "launch_pdl", False):
            attribute = driver.CUlaunchAttribute()
            attribute.id = ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            found.append(attribute)
        if getattr(self._metadata, "launch_cooperative_grid", False):
            attribute = driver.CUlaunchAttribute()
            attribute.id = ids.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
            found.append(attribute)
        if blocks != 1:
            attribute = driver.CUlaunchAttribute()
            attribute.id = ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            dimension = attribute.value.clusterDim
            dimension.x, dimension.y, dimension.z = blocks, 1, 1
            found.append(attribute)
        return found


class _Packed:
    """Parameters of one kernel in memory that stays: 8 bytes each, and their addresses as the driver wants
    them (CUDA driver API, cuLaunchKernel's ``kernelParams``). Two zeros follow: scratch that is not used.
    """

    def __init__(self, places: Sequence[tuple[int, bool]], layout: str, size: int) -> None:
        self._pointers_only = all(pointer for _, pointer in places)
        self._places = list(places)
        self._first = len(places)
        self._dense = [i for i, _ in places] == list(range(len(places)))
        self._words = (ctypes.c_uint64 * (len(places) + 2))()
        start = ctypes.addressof(self._words)
        self._table = (ctypes.c_void_p * len(self._words))(*[start + 8 * i for i in range(len(self._words))])
        self._address = ctypes.addressof(self._table)
        self._write = struct.Struct(layout).pack_into
        self._size = size

    @classmethod
    def of(cls, signature: Sequence[Any]) -> _Packed | None:
        """For a kernel of this signature; None where it takes other than addresses, integers, constants."""
        places: list[tuple[int, bool]] = []
        layout = "<"
        for place, kind in enumerate(signature):
            if kind == "constexpr":
                continue
            if not isinstance(kind, str) or not (kind.startswith("*") or kind in ("i32", "i64")):
                return None
            places.append((place, kind.startswith("*")))
            layout += "Q" if kind.startswith("*") else {"i32": "i4x", "i64": "q"}[kind]
        return cls(places, layout, len(signature))

    def filled(self, args: Sequence[Any]) -> int | None:
        """The address of the parameters' addresses, after ``args`` were written; None where one is none of a
        tensor and an integer."""
        if len(args) != self._size:
            return None
        try:
            if self._pointers_only and self._dense:
                values = [a.data_ptr() for a in args[: self._first]]
            else:
                values = [args[i].data_ptr() if pointer else args[i] for i, pointer in self._places]
            self._write(self._words, 0, *values)
        except (AttributeError, struct.error):
            return None
        return self._address


def _flatten(kind: Any, value: Any, values: list[Any], types: list[Any], descriptors: Iterator[Any]) -> None:
    """Append what stands for one argument in the kernel's parameters."""
    if isinstance(kind, tuple):
        for inner, each in zip(kind, value, strict=True):
            _flatten(inner, each, values, types, descriptors)
    elif kind == "constexpr":
        return
    elif kind.startswith("*"):
        values.append(0 if value is None else value if isinstance(value, int) else value.data_ptr())
        types.append(ctypes.c_void_p)
    elif kind.startswith("tensordesc"):
        _descriptor(value, next(descriptors, None), values, types)
    elif kind in ("fp16", "bf16"):
        values.append(_half_bits(float(value), kind))
        types.append(_CTYPES[kind])
    elif kind in _CTYPES:
        values.append(value)
        types.append(_CTYPES[kind])
    else:
        raise UnsupportedError("this argument of a Triton kernel cannot be launched", got=str(kind))


def _descriptor(value: Any, metadata: Mapping[str, Any] | None, values: list[Any], types: list[Any]) -> None:
    """A tensor descriptor: a tensor map, or its parts, then shape and strides (Triton's `make_tensordesc_arg`
    has the order)."""
    shape, strides = [int(n) for n in value.shape], [int(s) for s in value.strides]
    padding = getattr(value, "padding", "zero") == "nan"
    if metadata is None:
        values += [value.base.data_ptr(), *shape, *strides, padding]
        types += [ctypes.c_void_p, *[ctypes.c_int64] * (2 * len(shape)), ctypes.c_int8]
    else:
        from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST

        wide = [*shape[:-1], 2 * shape[-1]] if metadata["fp4_padded"] else shape
        made = tensor_map(
            value.base.data_ptr(), metadata["swizzle"], metadata["elem_size"],
            TMA_DTYPE_DEVICE_TO_HOST[metadata["elem_type"]], metadata["block_size"], wide, strides, padding,
        )  # fmt: skip
        values.append(made)
        types.append(None)
    values += [*shape, *strides]
    types += [*[ctypes.c_int32] * len(shape), *[ctypes.c_int64] * len(strides)]


def _half_bits(value: float, kind: str) -> int:
    if kind == "fp16":
        return int(struct.unpack("<H", struct.pack("<e", value))[0])
    return int(struct.unpack("<I", struct.pack("<f", value))[0]) >> 16
