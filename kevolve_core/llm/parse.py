"""From a reply to files: whole files in fenced blocks, or edits (SEARCH/REPLACE, a diff) of a kernel that was
shown.

Models do not keep to one form, so every form whose meaning is certain is read; what is not certain is a
`MalformedReplyError` that says what to do, never a guess.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from attrs import frozen

from kevolve_core import syntax
from kevolve_core.errors import MalformedReplyError
from kevolve_core.llm.patches import hunks, is_diff

__all__ = ["Expected", "files_of"]

_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
# Where a chat template opened the reasoning, the reply has its end only.
_THOUGHT = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_OPEN = re.compile(r"^\s{0,3}(?P<quote>`{3,}|~{3,})\s*(?P<info>[^`]*)$")
_SEARCH = re.compile(r"^\s{0,3}<{5,9}\s*(SEARCH|ORIGINAL)?\b.*$")
_MIDDLE = re.compile(r"^\s{0,3}={5,9}\s*$")
_REPLACE = re.compile(r"^\s{0,3}>{5,9}\s*(REPLACE|UPDATED)?\b.*$")
_NAME = re.compile(r"[\w][\w./+-]*\.(?:py|cpp|cc|cxx|cu|cuh|hip|h|hpp|inc)\b")
_OMISSION = re.compile(
    r"^\s*(#|//)\s*(\.\.\.|…)\s*$|^\s*(#|//).{0,40}\b(rest of (the )?(code|file|kernel)|(remains?|stays?) "
    r"(the same|unchanged)|same as (before|above)|existing code|unchanged code)\b",
    re.IGNORECASE | re.MULTILINE,
)
_KINDS: Mapping[str, tuple[str, ...]] = {
    "python": (".py",), "py": (".py",), "python3": (".py",), "triton": (".py",),
    "cpp": (".cpp", ".cc", ".cxx"), "c++": (".cpp", ".cc", ".cxx"), "c": (".cpp", ".cc"),
    "cc": (".cc", ".cpp"),
    "cuda": (".cu",), "cu": (".cu",), "hip": (".hip",),
}  # fmt: skip


@frozen
class Expected:
    """What a reply should come to.

    Args:
        entry: name of the Python file.
        native: name of the native file, "" where the language has none.
        symbol: what the entry defines (``ModelNew`` or the function's name).
        base: files of the kernel that was shown; edits change these, {} for a draft.
    """

    entry: str
    native: str
    symbol: str
    base: Mapping[str, str]


@frozen
class _Block:
    """A fenced block and what stands before it."""

    info: str
    text: str
    before: str
    closed: bool


def files_of(reply: str, expected: Expected, *, cut: bool = False) -> dict[str, str]:
    """The candidate's files.

    Args:
        reply: what the model wrote.
        expected: what it should come to.
        cut: the reply ended at its limit, so edits may be missing: it counts only with whole files.

    Raises:
        MalformedReplyError: no file, an edit that does not fit, a file cut off, Python that does not
            parse, …; ``what`` is for the model too.
    """
    text = _THINKING.sub("", reply.replace("\r\n", "\n").replace("\r", "\n"))
    edits, rest = _edits(_THOUGHT.sub("", text))
    files: dict[str, str] = {}
    diffs: list[_Edit] = []
    for block in _blocks(rest):
        if is_diff(block.info, block.text):
            diffs += _of_diff(block)
            continue
        name = _name(block, expected, files)
        if name is None:
            continue
        if not block.closed:
            raise MalformedReplyError(f"the block of `{name}` is not closed: the reply was cut off")
        files[name] = block.text
    whole = dict(files)
    if expected.base and not edits:  # beside edits, and of a file that is there whole, it is an illustration
        edits = [d for d in diffs if not files or (d.name and PurePosixPath(d.name).name not in files)]
    if cut and expected.base and (edits or not whole.keys() >= expected.base.keys()):
        raise MalformedReplyError("the reply was cut off: more changes may have been meant")
    if edits:
        files = _applied(edits, {**expected.base, **files}, expected)
    elif expected.base and files:
        # Files that were not given stay as they are, as long as there is a change.
        files = {**expected.base, **files}
    if not files:
        raise MalformedReplyError(
            "it has neither a file nor an edit: give each file as its name on a line of its own and a fenced "
            "block"
        )
    _check(files, expected, whole)
    return files


# -- edits -----------------------------------------------------------------------------------------


@frozen
class _Edit:
    name: str  # "" where none stands before it
    search: str
    replace: str


def _edits(text: str) -> tuple[list[_Edit], str]:
    """SEARCH/REPLACE blocks in order, and the text without them."""
    found: list[_Edit] = []
    kept: list[str] = []
    lines = text.split("\n")
    i = 0
    name = ""
    while i < len(lines):
        line = lines[i]
        if not _SEARCH.match(line):
            if found_name := _named(line):
                name = found_name
            kept.append(line)
            i += 1
            continue
        middle = _next(lines, i + 1, _MIDDLE)
        end = None if middle is None else _next(lines, middle + 1, _REPLACE)
        if middle is None or end is None:
            raise MalformedReplyError(
                "a SEARCH block has no `=======` or no `>>>>>>> REPLACE`: the reply was cut off or the "
                "marks are wrong"
            )
        found.append(_Edit(name, "\n".join(lines[i + 1 : middle]), "\n".join(lines[middle + 1 : end])))
        i = end + 1
    if not found:
        return [], text
    # Fences around edits enclose nothing any more.
    return found, re.sub(r"(?m)^\s{0,3}(`{3,}|~{3,})[^\n`]*\n(\s*\n)*\s{0,3}\1[ \t]*$", "", "\n".join(kept))


def _of_diff(block: _Block) -> list[_Edit]:
    """The edits of a diff. Its file is named in it, or before it."""
    if not block.closed:
        raise MalformedReplyError("a diff is not closed: the reply was cut off")
    named = _named(block.before) or ""
    return [_Edit(name or named, old, new) for name, old, new in hunks(block.text)]


def _next(lines: Sequence[str], start: int, mark: re.Pattern[str]) -> int | None:
    for n in range(start, len(lines)):
        if mark.match(lines[n]):
            return n
        if _SEARCH.match(lines[n]):
            return None
    return None


def _applied(edits: Sequence[_Edit], base: Mapping[str, str], expected: Expected) -> dict[str, str]:
    if not base:
        raise MalformedReplyError("it edits a kernel, but there is none to edit: give whole files")
    files = dict(base)
    for edit in edits:
        name = _edited(edit, files)
        if not edit.search.strip():
            if files.get(name, "").strip():
                raise MalformedReplyError(f"a SEARCH for `{name}` is empty: copy the lines to replace")
            files[name] = edit.replace + "\n"
            continue
        start, end, shift = _place(files[name], edit.search, name)
        old = files[name].split("\n")
        new = edit.replace.split("\n") if edit.replace else []
        files[name] = "\n".join([*old[:start], *(_shifted(line, shift) for line in new), *old[end:]])
    if files == dict(expected.base):
        raise MalformedReplyError("its edits change nothing")
    return files


def _edited(edit: _Edit, files: Mapping[str, str]) -> str:
    """The file that an edit is about: the one named, else the only one in which its lines occur."""
    if edit.name in files or (edit.name and not edit.search.strip()):
        return edit.name
    base = PurePosixPath(edit.name).name
    if base in files:
        return base
    holding = [name for name, text in files.items() if _matches(text, edit.search)]
    if len(holding) == 1:
        return holding[0]
    if edit.name:
        raise MalformedReplyError(f"it edits `{edit.name}`, but the files are: {', '.join(files)}")
    raise MalformedReplyError("an edit does not say which file it is about: put the file's name before it")


def _matches(text: str, search: str) -> list[tuple[int, int, str]]:
    """Places (first line, line after, indentation to add) of ``search`` in ``text``: as it stands, else but
    for trailing blanks, else but for one shift of the indentation."""
    lines = text.split("\n")
    wanted = search.split("\n")
    while wanted and not wanted[0].strip():
        wanted = wanted[1:]
    while wanted and not wanted[-1].strip():
        wanted = wanted[:-1]
    size = len(wanted)
    if not size:
        return []
    starts = range(len(lines) - size + 1)
    for same in (_equal, _equal_but_ends):
        found = [(n, n + size, "") for n in starts if same(lines[n : n + size], wanted)]
        if found:
            return found
    return [
        (n, n + size, shift) for n in starts if (shift := _shift(lines[n : n + size], wanted)) is not None
    ]


def _equal(old: Sequence[str], new: Sequence[str]) -> bool:
    return list(old) == list(new)


def _equal_but_ends(old: Sequence[str], new: Sequence[str]) -> bool:
    return [line.rstrip() for line in old] == [line.rstrip() for line in new]


def _shift(old: Sequence[str], new: Sequence[str]) -> str | None:
    """The blanks by which every line of ``old`` is indented more (``-`` and blanks: less) than ``new``."""
    shift: str | None = None
    for a, b in zip(old, new, strict=True):
        if a.strip() != b.strip():
            return None
        if not a.strip():
            continue
        left, right = a[: len(a) - len(a.lstrip())], b[: len(b) - len(b.lstrip())]
        if left.endswith(right):
            this = left[: len(left) - len(right)]
        elif right.endswith(left):
            this = "-" + right[: len(right) - len(left)]
        else:
            return None
        if shift is not None and this != shift:
            return None
        shift = this
    return shift


def _shifted(line: str, shift: str) -> str:
    if not shift or not line.strip():
        return line
    if shift.startswith("-"):
        return line.removeprefix(shift[1:])
    return shift + line


def _place(text: str, search: str, name: str) -> tuple[int, int, str]:
    found = _matches(text, search)
    if len(found) == 1:
        return found[0]
    first = next(line for line in search.split("\n") if line.strip())
    if found:
        raise MalformedReplyError(
            f"the SEARCH beginning `{first.strip()[:80]}` occurs {len(found)} times in `{name}`: copy more "
            "lines around it"
        )
    near = difflib.get_close_matches(first.strip(), [line.strip() for line in text.split("\n")], 1, 0.6)
    hint = f"; the nearest line there is `{near[0][:120]}`" if near else ""
    raise MalformedReplyError(
        f"the SEARCH beginning `{first.strip()[:80]}` is not in `{name}`{hint}. Copy lines exactly, or "
        "give the whole file"
    )


# -- whole files -----------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[_Block]:
    """Fenced blocks at the outermost level. A fence closes by as many quotes as opened it, or more."""
    lines = text.split("\n")
    i = 0
    before: list[str] = []
    while i < len(lines):
        opened = _OPEN.match(lines[i])
        if not opened:
            before.append(lines[i])
            i += 1
            continue
        quote = opened["quote"]
        closing = re.compile(rf"^\s{{0,3}}{re.escape(quote[0])}{{{len(quote)},}}\s*$")
        end = next((n for n in range(i + 1, len(lines)) if closing.match(lines[n])), None)
        body = lines[i + 1 : end]
        yield _Block(
            opened["info"].strip(), "\n".join(body).rstrip("\n") + "\n", _last(before), end is not None
        )
        before = []
        i = len(lines) if end is None else end + 1


def _last(lines: Sequence[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "")


def _name(block: _Block, expected: Expected, files: Mapping[str, str]) -> str | None:
    """The file that a block is: named in the fence, before it or in its first line, or the only one it can
    be. None for a block that is no file."""
    if not block.text.strip():
        return None
    language, _, tail = block.info.replace(":", " ").partition(" ")
    named = (
        _named(tail) or _named(block.before) or (language if _NAME.fullmatch(language) else None)
        or _comment_name(block.text)
    )  # fmt: skip
    if named:
        base = PurePosixPath(named).name
        named = base if base in (expected.entry, expected.native) else named
        return _safe(named)
    suffixes = _KINDS.get(language.lower())
    known = [n for n in (expected.entry, expected.native, *expected.base) if n]
    if suffixes is None:
        if language:
            return None
        suffixes = (".py",) if _is_python(block.text, expected) else ()
    fitting = dict.fromkeys(n for n in known if PurePosixPath(n).suffix in suffixes)
    if len(fitting) != 1:
        return None
    name = next(iter(fitting))
    if name == expected.entry and not _is_python(block.text, expected):
        return None  # a snippet in the reasoning
    return None if name in files and len(block.text) < len(files[name]) // 2 else name


def _is_python(text: str, expected: Expected) -> bool:
    return re.search(rf"^\s*(def|class)\s+{re.escape(expected.symbol)}\b", text, re.MULTILINE) is not None


def _named(line: str) -> str | None:
    """A file's name on a line that has little else."""
    words = re.sub(r"[`*#:\"'()\[\]<>]|--+|==+", " ", line).split()
    names = [w for w in words if _NAME.fullmatch(w)]
    return names[0] if len(names) == 1 and len(words) <= 4 else None


def _comment_name(text: str) -> str | None:
    first = text.split("\n", 1)[0].strip()
    if not first.startswith(("#", "//")) or first.startswith("#include"):
        return None
    words = first.lstrip("#/ ").split()
    if len(words) > 2:
        return None
    return next((w for w in words if _NAME.fullmatch(w)), None)


def _safe(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise MalformedReplyError(f"`{name}` lies outside the candidate: use plain relative names")
    return str(path)


# -- what can be known without a compiler ----------------------------------------------------------


def _check(files: Mapping[str, str], expected: Expected, whole: Mapping[str, str]) -> None:
    entry = files.get(expected.entry)
    if entry is None:
        raise MalformedReplyError(
            f"the file `{expected.entry}` is missing; it gave: {', '.join(sorted(files))}"
        )
    for name, text in whole.items():
        omitted = _OMISSION.search(text)
        if omitted and omitted[0].strip() not in expected.base.get(name, ""):
            raise MalformedReplyError(f"`{name}` leaves something out (`{omitted[0].strip()[:60]}`)")
    try:
        tree = syntax.parse(entry)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise MalformedReplyError(f"`{expected.entry}` is no Python: {error.args[0]}{where}") from error
    if expected.symbol not in _defined(tree):
        raise MalformedReplyError(f"`{expected.entry}` does not define `{expected.symbol}`")
    for loaded, functions in _loads(tree):
        if loaded not in files:
            raise MalformedReplyError(f"`{expected.entry}` opens `{loaded}`, which is not among the files")
        missing = [name for name in functions if not re.search(rf"\b{re.escape(name)}\b", files[loaded])]
        if missing:
            raise MalformedReplyError(f"`{loaded}` has no function `{missing[0]}`, which the entry opens")


def _loads(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Native files that the entry opens, with the functions it names, where both stand there as literals."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        file = node.args[0]
        if called != "load_native" or not (isinstance(file, ast.Constant) and isinstance(file.value, str)):
            continue
        table = node.args[1] if len(node.args) > 1 else None
        keys = table.keys if isinstance(table, ast.Dict) else []
        yield file.value, [str(k.value) for k in keys if isinstance(k, ast.Constant)]


def _defined(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
