"""Static rules: what a candidate's source may not do, checked before anything of it is built or run.

The rules are about cheating and escaping, not about style. They are the cheapest of several fences: what gets
past them still meets the sandbox, the oracle in another process and the timing checks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator

from attrs import frozen

from kevolve_core import syntax
from kevolve_core.model import Candidate

__all__ = ["Violation", "check_candidate"]

#: Modules an entry may import (their submodules too): the tensor library, its language's own packages and
#: pure helpers.
ALLOWED_MODULES = frozenset(
    {
        "torch", "triton", "cutlass", "cuda", "math", "functools", "itertools", "typing",
        "collections", "dataclasses", "enum", "operator", "kevolve_core.native", "__future__",
    }
)  # fmt: skip
FORBIDDEN_SUBMODULES = (
    "torch.multiprocessing", "torch.utils.data", "torch.hub", "torch.cuda.Event",
    "torch.utils.cpp_extension", "torch.overrides", "torch.utils._python_dispatch",
    "torch.library", "torch.distributed", "torch.testing", "torch.utils.benchmark",
    "torch.profiler", "torch.autograd.profiler", "torch.futures", "torch.jit", "torch._C",
    "torch._dynamo", "torch._inductor", "torch.load", "torch.save", "torch.serialization",
    "torch.package", "torch.classes", "torch.backends", "cutlass.base_dsl", "cutlass._mlir", "cutlass.jax",
    "cutlass.testing", "cutlass.cute.testing", "cutlass.cute.export", "cutlass.cute.runtime.load_module",
    "cutlass.runtime.load_module",
)  # fmt: skip
#: Builtins that reach code, files or other objects' insides.
FORBIDDEN_NAMES = frozenset(
    {
        "eval", "exec", "compile", "open", "__import__", "globals", "locals", "vars", "getattr",
        "setattr", "delattr", "breakpoint", "memoryview", "__builtins__", "__loader__", "__spec__",
    }
)  # fmt: skip
FORBIDDEN_ATTRIBUTES = frozenset(
    {
        "__globals__", "__code__", "__closure__", "__subclasses__", "__bases__", "__base__",
        "__mro__", "__dict__", "__builtins__", "__getattribute__", "__setattr__", "__delattr__",
        "__torch_function__", "__torch_dispatch__", "__reduce__", "__import__", "__loader__",
        "__self__", "__wrapped__", "f_back", "f_globals", "f_locals", "gi_frame", "cr_frame",
        "tb_frame", "_version", "elapsed_time", "perf_counter", "perf_counter_ns",
        "untyped_storage", "set_", "from_blob", "from_file", "load_library", "_make_subclass",
        "_make_wrapper_subclass", "Stream", "ExternalStream", "set_stream", "default_generator",
        "manual_seed", "set_default_device", "set_default_dtype", "set_num_threads",
        "set_num_interop_threads", "set_flush_denormal", "allow_tf32",
        "set_float32_matmul_precision",
    }
)  # fmt: skip
_CACHING = ("functools.lru_cache", "functools.cache", "functools.cached_property")

#: Native source: pattern -> why it is refused.
NATIVE_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"#\s*include\s*<(thread|future|pthread\.h|sys/[^>]*|unistd\.h|dlfcn\.h|signal\.h|spawn\.h|sched\.h)>",
     "includes a header for threads, processes or system calls"),
    (r"#\s*include\s*<(chrono|ctime|time\.h|fstream|filesystem|fcntl\.h|csignal|csetjmp|setjmp\.h)>",
     "includes a header for clocks, files or signals"),
    (r"\b(pthread_\w+|std::thread|std::async|std::jthread|fork|vfork|execv\w*|execl\w*|posix_spawn\w*|system|popen)"
     r"\s*[({]", "starts a thread or process outside OpenMP"),
    (r"\b(dlopen|dlsym|dl_iterate_phdr|ptrace|process_vm_\w+|syscall|mmap|mprotect|prctl|sigaction)\s*\(",
     "reaches for the system or for other code in the process"),
    (r"\b(clock_gettime|gettimeofday|clock|time|omp_get_wtime|__rdtscp?|__builtin_ia32_rdtscp?|rdtscp?)\s*\(",
     "reads a clock"),
    (r"\b(fopen|open|openat|creat|freopen|write|pwrite|send|sendmsg|recv|recvmsg|ifstream|ofstream|getenv|setenv|environ)\s*\(",
     "touches files or environment"),
    (r"\b(asm|__asm__)\b[^;]*\b(syscall|int\s+0x80|sysenter|rdtsc|rdtscp|cpuid)\b",
     "inline assembly calls the system"),
    (r"/proc/|/dev/|/sys/", "names a system file"),
    (r"__attribute__\s*\(\s*\(\s*(constructor|destructor)|\b_init\s*\(|__cxa_atexit|\batexit\s*\(",
     "runs code when the library is loaded or unloaded"),
    (r"#\s*include\s*\"(?!\w[\w./-]*\")|#\s*include\s*[<\"][^>\"]*\.\.",
     "includes a file outside the candidate"),
    (r"\bomp\s+[^\n]*\btask\b[^\n]*\bdetach\b", "detaches a task beyond the call"),
)  # fmt: skip


@frozen
class Violation:
    """One broken rule: file, line (1-based) and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def check_candidate(candidate: Candidate, modules: Collection[str] = ()) -> tuple[Violation, ...]:
    """Every violation in ``candidate``'s files, in file order; empty when it may be built. ``modules`` may be
    imported too: those of a backend's own languages (`Manifest.modules`)."""
    found: list[Violation] = []
    if candidate.entry not in candidate.files:
        found.append(Violation(candidate.entry, 0, "the entry file is not among the candidate's files"))
    for path, text in candidate.files.items():
        if path.startswith("/") or ".." in path.split("/"):
            found.append(Violation(path, 0, "a file lies outside the candidate"))
        elif path.endswith(".py"):
            found.extend(_check_python(path, text, frozenset(modules)))
        else:
            found.extend(_check_native(path, text))
    return tuple(found)


def _check_native(path: str, text: str) -> Iterator[Violation]:
    code = _strip_comments(text)
    for pattern, reason in NATIVE_PATTERNS:
        match = re.search(pattern, code)
        if match:
            yield Violation(
                path, code.count("\n", 0, match.start()) + 1, f"{reason}: {match.group(0).strip()!r}"
            )


def _strip_comments(text: str) -> str:
    """Native source without comments, line numbers kept; a line spliced by a backslash is joined first."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match.group(0).count("\n") if match.group(0).startswith("/") else match.group(0)

    return re.sub(
        r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text.replace("\\\n", "  "), flags=re.DOTALL
    )


def _check_python(path: str, text: str, modules: frozenset[str]) -> Iterator[Violation]:
    try:
        tree = syntax.parse(text)
    except SyntaxError as error:
        yield Violation(path, error.lineno or 0, f"not valid Python: {error.msg}")
        return
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for reason in _reasons(node, aliases, modules):
            yield Violation(path, line, reason)


def _aliases(tree: ast.AST) -> frozenset[str]:
    """Names bound by imports: what assignments through them would patch."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((a.asname or a.name).split(".")[0] for a in node.names)
    return frozenset(names)


def _reasons(node: ast.AST, aliases: frozenset[str], modules: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (r for a in node.names for r in _import_reason(a.name, modules))
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from _import_reason(module, modules)
        for a in node.names:
            yield from _forbidden_module(f"{module}.{a.name}")
            yield from _name_reason(a.name, f"{module}.{a.name}")
    elif isinstance(node, ast.Name):
        if node.id in FORBIDDEN_NAMES:
            yield f"uses '{node.id}'"
    elif isinstance(node, ast.Attribute):
        yield from _name_reason(node.attr, _dotted(node))
        yield from _forbidden_module(_dotted(node))
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
        targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]
        for target in targets:
            if isinstance(target, (ast.Attribute, ast.Subscript)) and _root(target) in aliases:
                yield f"patches '{_root(target)}'"
    elif isinstance(node, ast.Try):
        yield "handles exceptions: a kernel has no fallback to hide"
    elif isinstance(node, ast.ClassDef):
        yield from _class_reasons(node)
    elif isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)):
        yield "is asynchronous"
    elif (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FORBIDDEN_ATTRIBUTES
    ):
        yield f"names '{node.value}' in a string"


def _import_reason(module: str, modules: frozenset[str]) -> Iterator[str]:
    allowed = any(module == m or module.startswith(m + ".") for m in ALLOWED_MODULES | modules)
    if not allowed:
        yield f"imports '{module}', which a kernel has no need of"
    yield from _forbidden_module(module)


def _forbidden_module(dotted: str) -> Iterator[str]:
    if any(dotted == m or dotted.startswith(m + ".") for m in FORBIDDEN_SUBMODULES):
        yield f"uses '{dotted}'"


def _name_reason(name: str, dotted: str) -> Iterator[str]:
    if name in FORBIDDEN_ATTRIBUTES:
        yield f"uses '{name}'"
    elif dotted in _CACHING:
        yield f"caches results with '{name}'"


def _class_reasons(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        dotted = _dotted(base)
        if dotted.split(".")[-1] == "Tensor" or dotted.endswith(("TorchFunctionMode", "DispatchMode")):
            yield "defines a tensor subclass or a dispatch mode"
        elif dotted == "Model":
            yield "inherits from the reference"


def _dotted(node: ast.AST) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
