"""References and seed kernels from files, inline text and importable modules; nothing is executed here."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from kevolve_core import syntax
from kevolve_core.errors import SpecError, suggest
from kevolve_core.kernelspec import Reference
from kevolve_core.model import Candidate, Origin

__all__ = ["load_seed", "parse_reference", "parse_seed", "read_text"]

#: Suffix of native files -> language, in order of preference where a folder has several.
_NATIVE = {".cu": "cuda", ".hip": "hip", ".cpp": "cpp", ".cc": "cpp", ".cxx": "cpp"}
_HEADERS = {".h", ".hpp", ".cuh", ".inl"}
#: Module that a Python kernel imports -> language.
_IMPORTED = {"triton": "triton", "cutlass": "cute"}


@frozen
class Names:
    """What the top level of a Python module defines."""

    classes: dict[str, tuple[str, ...]]
    functions: tuple[str, ...]
    others: tuple[str, ...]
    imports: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.classes, *self.functions, *self.others)


def read_text(path: Path, what: str, where: str) -> str:
    """Text of a file, or a SpecError that says which file ``what`` meant."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        parent = path.parent
        near = suggest(path.name, (p.name for p in parent.iterdir())) if parent.is_dir() else ""
        raise SpecError(
            f"{what} does not exist", got=str(path), where=where, mend=near or "check the path"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{what} cannot be read", got=f"{path}: {error}", where=where) from error


def names_in(source: str, where: str) -> Names:
    """What ``source`` defines. Raises SpecError with the line where it is not Python."""
    try:
        tree = syntax.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise SpecError(
            "the Python source does not compile",
            got=getattr(error, "msg", str(error)),
            where=f"{where}, line {line}" if line else where,
        ) from error
    classes: dict[str, tuple[str, ...]] = {}
    functions: list[str] = []
    others: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = tuple(ast.unparse(b) for b in node.bases)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            others.extend((a.asname or a.name).partition(".")[0] for a in node.names)
        elif isinstance(node, ast.Assign):
            others.extend(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            others.append(node.target.id)
    imports: list[str] = []
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Import):
            imports.extend(a.name for a in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            imports.append(inner.module or "")
    return Names(classes, tuple(functions), tuple(others), tuple(imports))


def parse_reference(
    given: Any, base_dir: Path, where: str, name: str, declares_inputs: bool, gives_init: bool
) -> Reference:
    """The `Reference` of a spec's ``reference`` key.

    Args:
        given: its value, checked against the schema.
        base_dir: what paths are relative to.
        where: file and key, for messages.
        name: of the spec; a function of that name is the default symbol.
        declares_inputs: whether cases say their inputs; else ``get_inputs`` is looked for.
        gives_init: whether a case gives constructor arguments; else ``get_init_inputs`` is looked for.
    """
    body: dict[str, Any] = _long_form(given, where) if isinstance(given, str) else dict(given)
    ways = [k for k in ("python", "file", "module") if k in body]
    if len(ways) != 1:
        raise SpecError(
            "a reference is given in exactly one way",
            got=", ".join(ways) or "none",
            where=where,
            mend="give one of python: (text), file: (path) or module: (package.module:symbol)",
        )
    symbol = body.get("symbol", "")
    search = [str((base_dir / p).resolve()) for p in body.get("search_path", ())]
    path = ""
    if ways == ["python"]:
        source = body["python"]
        names = names_in(source, f"{where}.python")
    elif ways == ["file"]:
        file = (base_dir / body["file"]).resolve()
        source, path = read_text(file, "the reference's file", f"{where}.file"), str(file)
        names = names_in(source, path)
        search.append(str(file.parent))
    else:
        source, names, symbol, path = _importable(body["module"], symbol, base_dir, where)
    search.append(str(base_dir.resolve()))
    symbol = symbol or _default_symbol(names, name, where)
    if symbol not in names.all:
        mend = (
            suggest(symbol, names.all)
            or f"it defines {', '.join((*names.classes, *names.functions)) or 'nothing'}"
        )
        raise SpecError("the reference does not define this symbol", got=symbol, where=where, mend=mend)
    kind = body.get("kind") or ("module" if symbol in names.classes else "function")
    init = dict(body.get("init", {}))
    if kind == "function" and (init or gives_init):
        raise SpecError(
            "only a module has constructor arguments", got=f"'{symbol}' is a function", where=f"{where}.init"
        )
    init_from = body.get("init_from")
    if init_from is None:
        found = kind == "module" and "get_init_inputs" in names.functions and not init and not gives_init
        init_from = "get_init_inputs" if found else ""
    inputs_from = body.get("inputs_from")
    if inputs_from is None:
        inputs_from = "get_inputs" if "get_inputs" in names.functions and not declares_inputs else ""
    for key, function in (("init_from", init_from), ("inputs_from", inputs_from)):
        if function and function not in names.all:
            mend = suggest(function, names.all) or f"define {function}()"
            raise SpecError(
                "the reference does not define this function", got=function, where=f"{where}.{key}", mend=mend
            )
    return Reference(source, symbol, kind, path, tuple(dict.fromkeys(search)), init, init_from, inputs_from)


def _long_form(text: str, where: str) -> dict[str, Any]:
    """``file.py``, ``file.py:symbol`` or ``package.module:symbol`` spelt out."""
    head, _, symbol = text.rpartition(":") if ":" in text else (text, "", "")
    if head.endswith(".py"):
        return {"file": head, **({"symbol": symbol} if symbol else {})}
    if symbol:
        return {"module": text}
    raise SpecError(
        "a reference given as text is a file or module:symbol",
        got=text,
        where=where,
        mend="write 'file.py', 'file.py:symbol' or 'package.module:symbol', or reference: {python: |…}",
    )


def _importable(text: str, symbol: str, base_dir: Path, where: str) -> tuple[str, Names, str, str]:
    """(source, names, symbol, path) of ``module:symbol``.

    A module beside the spec is taken as text. One of a package is imported in the worker, because its own
    relative imports need the package; its content still counts in the fingerprint.
    """
    module, _, named = text.partition(":")
    symbol = symbol or named
    if not symbol:
        raise SpecError(
            "the symbol is missing", got=text, where=f"{where}.module", mend="write module:symbol"
        )
    beside = base_dir.joinpath(*module.split(".")).with_suffix(".py")
    if beside.is_file():
        origin = beside.resolve()
    else:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError) as error:
            raise _no_module(module, where) from error
        if found is None:
            raise _no_module(module, where)
        if not found.origin or not found.origin.endswith(".py"):
            raise SpecError("the module has no Python source", got=module, where=f"{where}.module")
        origin = Path(found.origin)
    source = read_text(origin, "the reference's module", f"{where}.module")
    names = names_in(source, str(origin))
    if beside.is_file() and "." not in module:
        return source, names, symbol, str(origin)
    digest = hashlib.sha256(source.encode()).hexdigest()
    return f"# {module}, sha256 {digest}\nfrom {module} import {symbol}\n", names, symbol, ""


def _no_module(module: str, where: str) -> SpecError:
    return SpecError(
        "the reference's module is not found",
        got=module,
        where=f"{where}.module",
        mend="install it, or name its file: reference: {file: path.py}",
    )


def _default_symbol(names: Names, name: str, where: str) -> str:
    if "Model" in names.classes:
        return "Model"
    if name in names.functions or name in names.classes:
        return name
    candidates = [c for c, bases in names.classes.items() if any(b.endswith("Module") for b in bases)]
    candidates += [f for f in names.functions if not f.startswith("_") and not f.startswith("get_")]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates and name in names.others:  # gelu = torch.nn.functional.gelu
        return name
    raise SpecError(
        "it is not clear which symbol is the reference"
        if candidates
        else "the reference defines no function or module",
        got=", ".join(candidates) or "nothing",
        where=where,
        mend="name it: reference: {…, symbol: NAME}",
    )


def load_seed(path: str | Path, *, language: str = "", symbol: str = "") -> Candidate:
    """The user's own kernel as a `Candidate`.

    Args:
        path: a Python file that defines ``ModelNew`` (or a function of the reference's name), or a folder
            with one and the native files beside it.
        language: of the candidate; by default from the files: a native suffix, then what Python imports,
            else ``python``.
        symbol: what the entry must define where it has no ``ModelNew`` (the reference's name); "" is any.

    Raises:
        SpecError: the file is missing, is not Python, or defines no kernel.
    """
    root = Path(path)
    if not root.exists():
        raise SpecError(
            "the kernel does not exist", got=str(path), mend="give a .py file or a folder with one"
        )
    if root.is_dir():
        kept = {".py", *_NATIVE, *_HEADERS}
        paths = sorted(
            p for p in root.rglob("*") if p.is_file() and p.suffix in kept and "__pycache__" not in p.parts
        )
        files = {
            p.relative_to(root).as_posix(): read_text(p, "a file of the kernel", str(root)) for p in paths
        }
    else:
        files = {root.name: read_text(root, "the kernel", str(root))}
    return _candidate(files, str(root), language=language, symbol=symbol)


def parse_seed(given: Any, base_dir: Path, where: str, symbol: str) -> Candidate:
    """The candidate of one entry of ``seeds``."""
    if isinstance(given, str):
        given = {"path": given}
    if ("path" in given) == ("files" in given):
        raise SpecError("a seed is a path or its files", where=where, mend="give 'path' or 'files'")
    language = given.get("language", "")
    if "path" in given:
        return load_seed(base_dir / given["path"], language=language, symbol=symbol)
    made = _candidate(given["files"], where, language=language, symbol=symbol, entry=given.get("entry", ""))
    return Candidate(
        made.files,
        made.entry,
        made.language,
        given.get("symbol", ""),
        tuple(given.get("parents", ())),
        given.get("genome"),
        tuple(given.get("libraries", ())),
        made.origin,
    )


def _candidate(
    files: Mapping[str, str], where: str, *, language: str, symbol: str, entry: str = ""
) -> Candidate:
    python = {f: names_in(text, f"{where}, {f}") for f, text in files.items() if f.endswith(".py")}
    wanted = ("ModelNew", symbol) if symbol else ("ModelNew",)
    fitting = [f for f, names in python.items() if any(s in names.all for s in wanted)]
    if entry and entry not in files:
        raise SpecError("the entry is not among the kernel's files", got=entry, where=where)
    if not entry and not fitting and not symbol:
        fitting = [f for f, names in python.items() if names.functions]
    if not entry and not fitting:
        raise SpecError(
            "the kernel defines neither " + " nor ".join(wanted)
            if symbol
            else "the kernel defines no ModelNew",
            got=", ".join(files) or "no source files",
            where=where,
            mend="define a class ModelNew with the constructor of the reference's Model",
        )
    entry = entry or next((f for f in fitting if Path(f).name == "kernel.py"), fitting[0])
    return Candidate(
        files, entry, language or _language(files, python), origin=Origin("user", "given", {"path": where})
    )


def _language(files: Mapping[str, str], python: Mapping[str, Names]) -> str:
    suffixes = {Path(f).suffix for f in files}
    native = next((name for suffix, name in _NATIVE.items() if suffix in suffixes), "")
    imported = {module.partition(".")[0] for names in python.values() for module in names.imports}
    return native or next((name for module, name in _IMPORTED.items() if module in imported), "python")
