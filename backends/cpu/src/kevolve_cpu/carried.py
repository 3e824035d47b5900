"""Build and open native sources with the standard library alone. See `kevolve_cpu.standalone`."""

from kevolve_cpu.isa import flags_for, host_arch, host_extensions

_SOURCES: dict[str, str] = {}

# --- carried by exported kernels from here on ---
import ctypes  # noqa: E402
import hashlib  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import types  # noqa: E402
import typing  # noqa: E402

_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
_CODES = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_int64,
    "i": ctypes.c_int32,
    "d": ctypes.c_double,
    "f": ctypes.c_float,
}


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise RuntimeError(
        "this kernel is C++ and needs a compiler: Debian/Ubuntu `apt install g++`, "
        "Fedora `dnf install gcc-c++`, Homebrew `brew install gcc`, or set $CXX"
    )


def _build() -> str:
    """Path of the library made of every native source of this module."""
    compiler = _compiler()
    banner = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    arch = list(flags_for(host_arch(), host_extensions()) or ())
    key = hashlib.sha256(repr((sorted(_SOURCES.items()), _FLAGS, arch, banner)).encode()).hexdigest()[:32]
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(base, "kevolve-kernels")
    library = os.path.join(folder, key + ".so")
    if os.path.exists(library):
        return library
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for name, text in _SOURCES.items():
            path = os.path.join(work, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        units = sorted(n for n in _SOURCES if n.endswith((".cpp", ".cc", ".cxx")))
        made = os.path.join(work, key + ".so")
        # An older compiler does not know the newest extensions: it is asked again without them.
        for options in (arch, [o for o in arch if o not in host_extensions()]):
            command = [compiler, *_FLAGS, *options, "-I.", "-shared", "-o", made, *units, "-lm"]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                os.replace(made, library)
                return library
    raise RuntimeError(f"{compiler} cannot build this kernel:\n{done.stderr[-4000:]}")


def load_native(file: str, functions: dict[str, str]) -> typing.Any:
    """The functions of native source ``file``, given as name -> argument codes: p pointer, l int64, i int32,
    d double, f float."""
    if file not in _SOURCES:
        raise RuntimeError(f"this kernel has no native file {file!r}; it has {sorted(_SOURCES)}")
    library = ctypes.CDLL(_build())
    bound = types.SimpleNamespace()
    for name, codes in functions.items():
        symbol = getattr(library, name)
        symbol.argtypes = [_CODES[code] for code in codes]
        symbol.restype = None
        setattr(bound, name, symbol)
    return bound
