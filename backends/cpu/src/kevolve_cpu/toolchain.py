"""Which C++ compiler builds candidates, and what it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from attrs import frozen

from kevolve_core.errors import ToolchainMissingError
from kevolve_core.model import content_hash
from kevolve_cpu.settings import Settings

__all__ = ["BASE_FLAGS", "Toolchain", "find_toolchain", "install_hint"]

#: Every candidate's flags. Results keep IEEE semantics: infinities, NaN and signed zeros behave, sums are not
#: reordered behind the author's back. Only errno and trap flags of the math library, which nothing reads, go.
BASE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-unknown-pragmas",
)


@frozen
class Toolchain:
    """A C++ compiler.

    Args:
        path: absolute path of the driver.
        family: ``gcc`` or ``clang``.
        version: as it prints it (``12.2.0``).
        banner: first line of ``--version``.
    """

    path: str
    family: str
    version: str
    banner: str

    @property
    def identity(self) -> str:
        """Changes whenever the produced code may: banner, and size and time of the driver's file."""
        stat = Path(self.path).stat()
        return content_hash([self.banner, stat.st_size, stat.st_mtime_ns])[:16]

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that only this family has."""
        if self.family == "gcc":
            # A unique (STB_GNU_UNIQUE) symbol would pin the library in the process after it is closed.
            return ("-fno-gnu-unique", "-fmax-errors=20")
        return ("-ferror-limit=20",)

    def accepted(self, options: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``options`` that this compiler knows (an older one lacks newer extensions)."""
        return _accepted(self.path, options)


def install_hint() -> str:
    """How to get a compiler, by distribution."""
    return (
        "install one: Debian/Ubuntu `apt install g++`, Fedora `dnf install gcc-c++`, "
        "Homebrew `brew install gcc`; or name one with $CXX or the option `compiler` in plugins.toml"
    )


def find_toolchain(settings: Settings) -> Toolchain:
    """The compiler named by the option, ``$CXX``, or found on PATH as g++ or clang++, in this order.

    g++ goes before clang++: its OpenMP runtime is the one that PyTorch's Linux wheels carry, so a candidate
    shares PyTorch's thread pool, while clang's would be a second pool in the process.

    Raises:
        ToolchainMissingError: none of them; names the package to install.
    """
    named = settings.compiler or os.environ.get("CXX", "").strip()
    if named:
        where = "option `compiler`" if settings.compiler else "$CXX"
        path = shutil.which(os.path.expanduser(named))
        if path is None:
            raise ToolchainMissingError(
                "the named C++ compiler is not there", got=named, where=where, mend=install_hint()
            )
        return _identify(os.path.abspath(path))
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            return _identify(os.path.abspath(path))
    raise ToolchainMissingError(
        "no C++ compiler: neither g++ nor clang++ is on PATH",
        got=f"PATH={os.environ.get('PATH', '')}",
        where="cpu backend",
        mend=install_hint(),
    )


@cache
def _identify(path: str) -> Toolchain:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
        banner = done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else ""
        defines = subprocess.run(
            [path, "-dM", "-E", "-x", "c++", os.devnull],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainMissingError(
            "the C++ compiler cannot be run", got=str(error), where=path, mend=install_hint()
        ) from error
    if not banner or defines.returncode != 0 or "__GNUC__" not in defines.stdout:
        raise ToolchainMissingError(
            "this program does not behave like g++ or clang++",
            got=(defines.stderr or banner or f"exit {done.returncode}").strip()[:200],
            where=path,
            mend=install_hint(),
        )
    family = "clang" if "__clang__" in defines.stdout else "gcc"
    found = re.search(r"(\d+\.\d+(\.\d+)?)", banner.rpartition(")")[2] or banner)
    return Toolchain(path, family, found.group(1) if found else "unknown", banner)


@cache
def _accepted(path: str, options: tuple[str, ...]) -> tuple[str, ...]:
    if not options or _takes(path, options):
        return options
    return tuple(option for option in options if _takes(path, (option,)))


def _takes(path: str, options: tuple[str, ...]) -> bool:
    command = [path, *options, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
