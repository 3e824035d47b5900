"""Opening a candidate's built CUDA files: what `kevolve_core.native.load_native` gives on this backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attrs import define, field

from kevolve_core.errors import KevolveError

__all__ = ["ModuleLoader"]


@define
class ModuleLoader:
    """Loads cubins of one candidate into the device's context, each once.

    A name of `load_native` becomes a `kevolve_nvidia.launch.Kernel`:
    ``kernels.rmsnorm(x.data_ptr(), y.data_ptr(), n, grid=n, block=256, shared=0)``.
    """

    binaries: Mapping[str, str]
    _modules: dict[str, Any] = field(factory=dict, init=False)

    def __call__(self, file: str, functions: Mapping[str, str]) -> Any:
        """File ``file`` with kernels ``functions`` as attributes. Raises `KevolveError` for an unknown
        name."""
        from kevolve_nvidia.launch import Kernel, load_module

        name = file.removeprefix("./")
        if name not in self.binaries:
            raise KevolveError(
                "the candidate opens a native file that was not built",
                got=file,
                where="load_native",
                mend=f"files built: {', '.join(sorted(self.binaries)) or 'none'}",
            )
        if name not in self._modules:
            self._modules[name] = load_module(self._read(name))
        found = {}
        for function, codes in functions.items():
            try:
                found[function] = Kernel(self._modules[name], function, codes)
            except RuntimeError as error:
                raise KevolveError(
                    "the native file does not export this kernel",
                    got=function,
                    where=file,
                    mend=f'define it as `extern "C" __global__ void {function}(…)`',
                ) from error
        return SimpleNamespace(**found)

    def _read(self, name: str) -> bytes:
        try:
            return Path(self.binaries[name]).read_bytes()
        except FileNotFoundError as error:
            raise KevolveError(
                "a built file has left the compile cache",
                got=self.binaries[name],
                where="load_native",
                mend="compile the candidate again",
            ) from error

    def close(self) -> None:
        """Unload the modules. No kernel of theirs may run any more."""
        from cuda.bindings import driver

        for module in self._modules.values():
            driver.cuModuleUnload(module)
        self._modules.clear()
