"""Running the user's reference file, with errors that name its line."""

from __future__ import annotations

import hashlib
import linecache
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from kevolve_core.errors import KevolveError, SpecError, suggest
from kevolve_core.kernelspec import KernelSpec

__all__ = ["filename_of", "import_reference", "user_code"]


def filename_of(spec: KernelSpec) -> str:
    """The name that tracebacks carry for the reference: its file, or a stand-in where it is inline."""
    return spec.reference.path or f"<reference of {spec.name}>"


def import_reference(spec: KernelSpec) -> dict[str, Any]:
    """The namespace of the reference's module, run anew.

    Raises:
        SpecError: it does not compile or import, or lacks a symbol that the spec names.
    """
    ref = spec.reference
    filename = filename_of(spec)
    # inspect, torch.compile and tracebacks read source lines through linecache.
    linecache.cache[filename] = (len(ref.source), None, ref.source.splitlines(keepends=True), filename)
    for path in reversed(ref.search_path):
        if path not in sys.path:
            sys.path.insert(0, path)
    name = f"kevolve_reference_{hashlib.sha256(ref.source.encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = filename
    sys.modules[name] = module  # dataclasses and pickle look modules up by name
    with user_code(spec, "the reference does not import"):
        exec(compile(ref.source, filename, "exec"), module.__dict__)
    for symbol in filter(None, (ref.symbol, ref.init_from, ref.inputs_from)):
        if symbol not in module.__dict__:
            public = [n for n in module.__dict__ if not n.startswith("_")]
            raise SpecError(
                f"the reference does not define '{symbol}'",
                got=", ".join(public) or "nothing",
                where=filename,
                mend=suggest(symbol, public) or f"define '{symbol}', or name another symbol in the spec",
            )
    return module.__dict__


@contextmanager
def user_code(spec: KernelSpec, what: str, mend: str | None = None) -> Iterator[None]:
    """Turn whatever the user's code raises into a `SpecError` that names the line of the user's file."""
    try:
        yield
    except KevolveError as error:
        if error.where is None:
            error.where = _where(spec, error)
        raise
    except Exception as error:
        raise SpecError(
            what,
            got=f"{type(error).__name__}: {str(error).strip()}",
            where=_where(spec, error),
            mend="install the missing module, or name its folder in reference.search_path"
            if isinstance(error, ModuleNotFoundError)
            else mend,
        ) from error


def _where(spec: KernelSpec, error: BaseException) -> str:
    filename = filename_of(spec)
    if isinstance(error, SyntaxError) and error.filename == filename:
        return f"{filename}, line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename
    ]
    return f"{filename}, line {lines[-1]}" if lines else filename
