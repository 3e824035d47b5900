"""Build and open CUDA sources at the first use. See `kevolve_nvidia.standalone`."""

from kevolve_nvidia.launch import Kernel, load_module

_SOURCES: dict[str, str] = {}

# --- carried by exported kernels from here on ---
import importlib.util  # noqa: E402
import os  # noqa: E402
import types  # noqa: E402
import typing  # noqa: E402

import torch  # noqa: E402

_FLAGS = ["--std=c++17", "--device-as-default-execution-space"]


def _headers() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    wheels = list(spec.submodule_search_locations or []) if spec else []
    folders = [os.path.join(p, "cu13", "include") for p in wheels]
    folders += [os.path.join(os.environ[k], "include") for k in ("CUDA_HOME", "CUDA_PATH") if k in os.environ]
    folders.append("/usr/local/cuda/include")
    return [f"-I{p}" for p in folders if os.path.isdir(p)]


def _build(file: str) -> bytes:
    """The cubin of one source for the current device, or the text of a PTX file, which the driver builds."""
    from cuda.bindings import nvrtc

    if file.endswith(".ptx"):
        return _SOURCES[file].encode() + b"\0"
    major, minor = torch.cuda.get_device_capability()
    arch = f"sm_{major}{minor}{'a' if major >= 9 else ''}"
    others = {n: t for n, t in _SOURCES.items() if n != file}
    code, program = nvrtc.nvrtcCreateProgram(
        _SOURCES[file].encode(),
        file.encode(),
        len(others),
        [t.encode() for t in others.values()],
        [n.encode() for n in others],
    )
    if int(code) != 0:
        raise RuntimeError(f"NVRTC: {code}")
    options = [f"--gpu-architecture={arch}", *_FLAGS, *_headers()]
    (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    if int(code) != 0:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC cannot build this kernel for {arch}:\n{log.decode(errors='replace')}")
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    cubin: bytes = b" " * size
    nvrtc.nvrtcGetCUBIN(program, cubin)
    return cubin


def load_native(file: str, functions: dict[str, str]) -> typing.Any:
    """The kernels of native source ``file``, given as name -> argument codes: p pointer, l int64, i int32,
    d double, f float. Each is built and loaded at its first launch, on the device that is current then."""
    file = file.removeprefix("./")
    if file not in _SOURCES:
        raise RuntimeError(f"this kernel has no native file {file!r}; it has {sorted(_SOURCES)}")
    modules: dict[int, typing.Any] = {}

    def lazily(name: str, codes: str) -> typing.Callable[..., None]:
        kernels: dict[int, Kernel] = {}

        def launch(*args: int | float, **sizes: typing.Any) -> None:
            device = torch.cuda.current_device()
            if device not in kernels:
                if device not in modules:
                    modules[device] = load_module(_build(file))
                kernels[device] = Kernel(modules[device], name, codes)
            kernels[device](*args, **sizes)

        return launch

    return types.SimpleNamespace(**{name: lazily(name, codes) for name, codes in functions.items()})
