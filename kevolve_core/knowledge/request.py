"""Requests in plain words: ``a Triton kernel for row-wise softmax on NAME``. Words are looked up, nothing is
guessed: what is missing or not understood becomes one question (`RequestError`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from attrs import field, frozen

from kevolve_core.errors import RequestError, suggest
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.catalogue import Entry, entries
from kevolve_core.knowledge.targets import Targets, plain

__all__ = ["Request", "looks_like_request", "understand"]

_LONGEST = 7  # words of a name
_WORD = re.compile(r"[a-z0-9][a-z0-9+_.\-]*")
_SHAPE = re.compile(r"(?<![\w.])\d+(?:\s*(?:x|×|\*|by|,)\s*\d+)+(?![\w.])|\[\s*\d+\s*\]|\(\s*\d+\s*\)")
_NAMED = re.compile(r"\b([a-z][a-z_]*)\s*=\s*(\d+)\b")
_DTYPES = {
    "float32": "float32", "fp32": "float32", "f32": "float32", "single": "float32",
    "float16": "float16", "fp16": "float16", "f16": "float16", "half": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float64": "float64", "fp64": "float64", "double": "float64",
}  # fmt: skip
_SPELLINGS = {"c++": "cpp", "cxx": "cpp", "cuda c++": "cuda", "cute dsl": "cute", "hip c++": "hip"}
#: Words that change nothing about what is asked.
_FILLER = frozenset({
    "a", "accelerator", "accelerators", "achieve", "an", "and", "as", "at", "best", "build", "by", "can",
    "chip", "code", "compute", "computes", "computing", "could", "create", "device", "devices", "dtype",
    "efficient", "element", "elements", "evolve", "fast", "fastest", "find", "for", "from", "function",
    "fused", "generate", "get", "gimme", "give", "good", "hardware", "high", "i", "implement",
    "implementation", "in", "input", "inputs", "is", "it", "kernel", "kernels", "language", "like",
    "make", "matrices", "matrix", "me", "my", "need", "new", "of", "on", "one", "op", "operation",
    "operator", "optimal", "optimise", "optimised", "optimize", "optimized", "our", "over", "performance",
    "please", "possible", "precision", "produce", "program", "quick", "run", "running", "runs", "shape",
    "shaped", "shapes", "size", "sized", "sizes", "some", "target", "targeting", "tensor", "tensors",
    "that", "the", "this", "to", "tune", "tuned", "two", "us", "using", "values", "vectors", "want", "we",
    "which", "with", "would", "write", "written", "you",
})  # fmt: skip


@frozen
class Request:
    """What a plain request says.

    Args:
        text: as given.
        entry: the operator, of the catalogue.
        language: candidate language, "" where none was named.
        target: the target's own name, "" where none was named.
        dtype: of floating-point inputs, "" where none was named.
        sizes: symbol -> size, empty where none were given.
    """

    text: str
    entry: Entry
    language: str = ""
    target: str = ""
    dtype: str = ""
    sizes: Mapping[str, int] = field(factory=dict, hash=False)

    def spec(self) -> KernelSpec:
        """The specification it resolves to. Raises RequestError for sizes the operator does not have."""
        return self.entry.spec(self.sizes, self.dtype)

    def words(self) -> str:
        """What was understood, in one line."""
        sizes = " x ".join(f"{name} {size}" for name, size in self.sizes.items())
        parts = (self.dtype, sizes, self.language, f"on {self.target}" if self.target else "")
        return ", ".join((self.entry.name, *(part for part in parts if part)))


def looks_like_request(text: str) -> bool:
    """Words, and no file's name: a request rather than the path of a specification."""
    return len(text.split()) > 1 and not re.search(r"\.(ya?ml|py|json)\s*$", text, re.IGNORECASE)


def understand(text: str, targets: Targets, languages: Iterable[str]) -> Request:
    """What ``text`` asks for.

    Args:
        text: plain words.
        targets: the vocabulary of targets; see `KnowledgeBase.targets`.
        languages: names of candidate languages.

    Raises:
        RequestError: the operator is missing, or something is named twice or not understood; its ``what`` is
            the question, its ``got`` what was understood.
    """
    rest, shape, named = _sizes(text.lower())
    rest = rest.replace("c ++", "c++")
    found, strange = _look_up(_WORD.findall(rest), _vocabulary(targets, languages))
    operators = found["operator"]
    said = {kind: found[kind] for kind in ("language", "target", "dtype")}
    said["target"] = _narrowest(said["target"], targets)
    for kind, names in said.items():
        if len(names) > 1:
            raise RequestError(
                f"which {kind} is meant: {' or '.join(names)}?", got=text, mend=f"name one {kind}"
            )
    language, target, dtype = ("".join(said[kind]) for kind in ("language", "target", "dtype"))
    understood = [f"{kind} {''.join(names)}" for kind, names in said.items() if names]
    known = {entry.name: entry for entry in entries()}
    if len(operators) != 1:
        raise _which_operator(text, operators, strange, understood, known)
    entry = known[operators[0]]
    if strange:
        words = ", ".join(f"'{word}'" for word in strange)
        raise RequestError(
            f"what is meant by {words}?",
            got=", ".join([f"operator {entry.name}", *understood]),
            mend=_near(strange, targets, languages)
            or f"leave it out, or write a specification that says it: the catalogue's {entry.name} is plain",
        )
    return Request(text, entry, language, target, dtype, _assigned(entry, shape, named))


def _sizes(text: str) -> tuple[str, list[int], dict[str, int]]:
    """The text without sizes, sizes in order, and sizes by symbol."""
    named = {match[1]: int(match[2]) for match in _NAMED.finditer(text)}
    text = _NAMED.sub(" ", text)
    shape = [int(number) for match in _SHAPE.findall(text) for number in re.findall(r"\d+", match)]
    return _SHAPE.sub(" ", text), shape, named


def _vocabulary(targets: Targets, languages: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Plain name -> (kind, what it stands for). An operator's name wins over a target's."""
    names = {plain(language): ("language", language) for language in languages}
    names |= {plain(word): ("language", to) for word, to in _SPELLINGS.items() if to in set(languages)}
    names |= {name: ("target", target) for name, target in targets.canonical.items() if name not in names}
    names |= {name: ("dtype", dtype) for name, dtype in _DTYPES.items()}
    for entry in entries():
        names |= {plain(word): ("operator", entry.name) for word in (entry.name, *entry.aliases)}
    return names


def _look_up(
    words: list[str], names: Mapping[str, tuple[str, str]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Names by kind, longest first from the left, and the words that are neither names nor filler."""
    found: dict[str, list[str]] = {"operator": [], "language": [], "target": [], "dtype": []}
    strange: list[str] = []
    at = 0
    while at < len(words):
        for count in range(min(_LONGEST, len(words) - at), 0, -1):
            if hit := names.get(plain("".join(words[at : at + count]))):
                kind, name = hit
                if name not in found[kind]:
                    found[kind].append(name)
                at += count
                break
        else:
            word = words[at].strip(".-")
            if word and word not in _FILLER:
                strange.append(word)
            at += 1
    return found, strange


def _narrowest(found: list[str], targets: Targets) -> list[str]:
    """Without those that only name the family of another one (``… NAME GPU``)."""
    wider = {name for each in found for name in targets.closure(each) - {each}}
    return [name for name in found if name not in wider]


def _which_operator(
    text: str, operators: list[str], strange: list[str], understood: list[str], known: Iterable[str]
) -> RequestError:
    if operators:
        return RequestError(
            f"which operator shall the kernel compute: {' or '.join(operators)}?",
            got=text,
            mend="name one; for a combination write a specification (`kevolve spec init`)",
        )
    near = [hint for word in strange if (hint := suggest(word, known))]
    listed = f"one of: {', '.join(known)}; for another one write a specification (`kevolve spec init`)"
    unknown = [f"not understood: {' '.join(strange)}"] if strange else []
    return RequestError(
        "which operator shall the kernel compute?",
        got="; ".join([*understood, *unknown]) or text,
        mend=near[0] if near else listed,
    )


def _near(words: list[str], targets: Targets, languages: Iterable[str]) -> str:
    known = [*targets.canonical, *languages, *_DTYPES, *(entry.name for entry in entries())]
    return next((hint for word in words if (hint := suggest(word, known))), "")


def _assigned(entry: Entry, shape: list[int], named: Mapping[str, int]) -> dict[str, int]:
    """Sizes by the operator's symbols; what does not fit is left for `Entry.spec` to ask about."""
    if named:
        symbols = {symbol.lower(): symbol for symbol in entry.shape}
        return {symbols.get(name, name): size for name, size in named.items()}
    symbols_ = (*entry.shape, *(f"size {n + 1}" for n in range(len(entry.shape), len(shape))))
    return dict(zip(symbols_, shape, strict=False))
