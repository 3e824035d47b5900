"""All that touches Triton's internals. Tested with Triton 3.6 and written against 3.6, 3.7, 3.8 and 3.9.

Names used, each the same in those versions: ``JITFunction.run``, ``.create_binder``, ``._pack_args``,
``.pre_run_hooks``, ``.cache_key``, ``.hash``, ``.starting_line_number``; ``Autotuner.run``, ``.cache``,
``.do_bench``; ``ASTSource``; ``triton.compile``; ``triton.runtime.driver.set_active``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kevolve_core.errors import ToolchainMissingError, UnsupportedError

if TYPE_CHECKING:
    from kevolve_core.languages.triton.recording import Launch, TritonTarget

__all__ = [
    "NEWEST",
    "OLDEST",
    "compiled",
    "log_of",
    "nameless_key",
    "recording",
    "require",
    "specialised",
    "version",
]

OLDEST = (3, 6)
NEWEST = (3, 9)  # newer ones are tried, since their internals have kept


def version() -> str:
    """The installed Triton's version, or ""."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    for name in ("triton", "pytorch-triton", "pytorch-triton-rocm"):
        try:
            return installed(name)
        except PackageNotFoundError:
            continue
    return ""


def require() -> None:
    """Raise where there is no Triton, one too old, or one that interprets."""
    found = version()
    if not found:
        raise ToolchainMissingError("Triton is not installed", mend="pip install 'triton>=3.6'")
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise UnsupportedError(
            "this Triton is too old", got=found, mend=f"pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'"
        )
    from triton import knobs

    if knobs.runtime.interpret:
        raise UnsupportedError(
            "Triton's interpreter is on, so there are no launches to record",
            got="TRITON_INTERPRET",
            mend="unset TRITON_INTERPRET in this process's environment",
        )


def _gpu_target(target: TritonTarget) -> Any:
    """Triton's name of ``target``. Raises UnsupportedError where this Triton has no compiler for it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    found = GPUTarget(target.backend, target.arch, target.warp_size)
    try:
        make_backend(found)
    except RuntimeError as error:
        raise UnsupportedError(
            "this Triton has no compiler for the target",
            got=f"{target.backend} {target.arch}",
            mend="name a target of an installed Triton backend",
        ) from error
    return found


class _Utilities:
    """What host code reads through ``triton.runtime.driver.active.utils``."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = dict(properties)
        count = self._properties.get("multi_processor_count")
        self._properties.setdefault("multiprocessor_count", count)

    def get_device_properties(self, _: int = 0) -> Mapping[str, Any]:
        return self._properties


class _RecordingDriver:
    """A driver of no device: it answers what host code and Triton's launcher ask before a launch."""

    def __init__(self, target: TritonTarget, tuning: Callable[[Callable[[], Any]], None]) -> None:
        self._target = target
        self._tuning = tuning
        self.utils = _Utilities(target.properties)

    def get_current_target(self) -> Any:
        return _gpu_target(self._target)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _: int) -> None:
        """There is one device."""

    def get_current_stream(self, _: int = 0) -> int:
        return 0

    def get_device_capability(self, _: int = 0) -> tuple[int, int]:
        arch = self._target.arch
        return (arch // 10, arch % 10) if isinstance(arch, int) else (0, 0)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        import torch

        return torch.cpu

    def get_benchmarker(self) -> Callable[..., Any]:
        """One call of the kernel, and a second for its time: the first configuration is the fastest."""

        def benchmark(kernel_call: Callable[[], Any], quantiles: Any = None, **_: Any) -> Any:
            self._tuning(kernel_call)
            return [1.0] * len(quantiles) if quantiles else 1.0

        return benchmark

    def get_empty_cache_for_benchmark(self) -> Any:
        import torch

        return torch.empty(1)

    def clear_cache(self, cache: Any) -> None:
        cache.zero_()


def specialised(
    kernel: Any,
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    grid: Any,
    target: TritonTarget,
    tuning: bool = False,
) -> Launch:
    """The launch of ``kernel`` on bound ``arguments``, as Triton specialises it for ``target``."""
    from triton.runtime import driver

    from kevolve_core.languages.triton.recording import Launch

    before = driver._active
    driver.set_active(_RecordingDriver(target, lambda call: call()))
    try:
        _, _, _, backend, binder = _binder(kernel, target)
        bound, specialization, _ = binder(**dict(arguments), **dict(options))
        given = {**dict(options), **_COMPILE_DEFAULTS}
        _, signature, constexprs, attributes = kernel._pack_args(backend, given, bound, specialization, given)
    finally:
        driver._active = before
    return Launch(
        kernel, kernel.__name__, _grid(grid, bound), bound, options, signature, constexprs, attributes,
        target, tuning,
    )  # fmt: skip


#: Options that `JITFunction.run` adds to every launch before it parses them.
_COMPILE_DEFAULTS: dict[str, Any] = {"debug": False}

_binders: dict[tuple[int, str], tuple[Any, Any]] = {}


def _binder(kernel: Any, target: TritonTarget) -> Any:
    """What binds and specialises arguments, made once for a kernel and a target; the driver is active."""
    key = (id(kernel), f"{target.backend}:{target.arch}:{target.warp_size}")
    if key not in _binders or _binders[key][0] is not kernel:
        if len(_binders) > 4096:
            _binders.clear()
        _binders[key] = (kernel, kernel.create_binder())
    return _binders[key][1]


def _grid(grid: Any, bound: Mapping[str, Any]) -> tuple[int, int, int]:
    if callable(grid):
        grid = grid(bound)
    sizes = [int(n) for n in grid]
    x, y, z = [*sizes, 1, 1, 1][:3]
    return x, y, z


@contextmanager
def recording(target: TritonTarget, note: Callable[[Launch], None]) -> Iterator[None]:
    """While active, launches of this process go to ``note`` instead of a device."""
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    depth = 0

    def tuning(kernel_call: Callable[[], Any]) -> None:
        nonlocal depth
        depth += 1
        try:
            kernel_call()
        finally:
            depth -= 1

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        names = self.arg_names
        options = {k: v for k, v in kwargs.items() if k not in names}
        arguments = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        if warmup:
            return compiled(specialised(self, arguments, options, (1,), target))
        launch = specialised(self, arguments, options, grid, target, depth > 0)
        if launch.programs:
            note(launch)
        return None

    def tuned(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept, bench = dict(self.cache), self.__dict__.pop("do_bench", None)
        given, self._do_bench = self._do_bench, None
        results, self.cache_results = self.cache_results, False
        try:
            return autotuned(self, *args, **kwargs)
        finally:
            self.cache.clear()
            self.cache.update(kept)
            self._do_bench, self.cache_results = given, results
            self.__dict__.pop("do_bench", None)
            if bench is not None:
                self.__dict__["do_bench"] = bench

    before, launched, autotuned = driver._active, JITFunction.run, Autotuner.run
    driver.set_active(_RecordingDriver(target, tuning))
    JITFunction.run, Autotuner.run = run, tuned
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = launched, autotuned
        driver._active = before


def compiled(launch: Launch) -> Any:
    """Triton's ``CompiledKernel`` of ``launch``, from its cache where it is there."""
    import triton
    from triton.compiler import ASTSource

    target = _gpu_target(launch.target)
    source = ASTSource(
        launch.kernel, dict(launch.signature), dict(launch.constexprs), dict(launch.attributes)
    )
    return triton.compile(source, target=target, options=dict(launch.options))


def nameless_key(kernel: Any) -> str:
    """What ``kernel`` computes, wherever it stands and whatever it and its variables are called:
    ``cache_key`` has both in it. Functions that it may call keep their names."""
    own = [f for f in (kernel, *kernel.fn.__globals__.values()) if hasattr(f, "starting_line_number")]
    functions = list({id(f): f for f in own}.values())
    before = [(f.starting_line_number, f.hash) for f in functions]
    for f in functions:
        f.starting_line_number, f.hash = 0, None
    try:
        plain = str(kernel.cache_key)
        text, names = _renamed(kernel.parse())
        if not text:
            return plain
        scope = kernel.fn.__globals__
        called = [(n, scope[n].cache_key) for n in sorted(names) if hasattr(scope.get(n), "cache_key")]
        values = sorted((name, repr(v)) for (name, _), (v, _) in kernel.used_global_vals.items())
        return repr((text, called, values))
    finally:
        for f, (line, key) in zip(functions, before, strict=True):
            f.starting_line_number, f.hash = line, key


_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.ClassDef, ast.Global,
           ast.Nonlocal, ast.Import, ast.ImportFrom)  # fmt: skip


def _renamed(tree: ast.Module) -> tuple[str, set[str]]:
    """A function's syntax with its name, parameters and variables numbered, and the other names in it; of one
    that has scopes of its own, "" and none."""
    (function,) = tree.body
    inner = [n for n in ast.walk(function) if n is not function]
    if not isinstance(function, ast.FunctionDef) or any(
        isinstance(n, (*_SCOPES, ast.FunctionDef)) for n in inner
    ):
        return "", set()
    given = [
        a for n in inner if isinstance(n, ast.arguments) for a in (*n.posonlyargs, *n.args, *n.kwonlyargs)
    ]
    used = [n for n in inner if isinstance(n, ast.Name)]
    own = {a.arg for a in given} | {n.id for n in used if isinstance(n.ctx, ast.Store)}
    number = {name: f"_{k}" for k, name in enumerate(dict.fromkeys([a.arg for a in given]))}
    for n in used:
        if n.id in own:
            n.id = number.setdefault(n.id, f"_{len(number)}")
    for a in given:
        a.arg = number[a.arg]
    function.name = ""
    return ast.dump(function), {n.id for n in used} - set(number.values())


def log_of(error: BaseException) -> str:
    """What a compiler said: of Triton's front end the source line, of an assembler its whole output."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 4:
        parts.append(str(seen).strip())
        seen = seen.__cause__
    return "\n".join(dict.fromkeys(p for p in parts if p))
