"""Words of pages and questions: identifiers whole and in parts, plural and verb endings folded."""

from __future__ import annotations

import re

__all__ = ["tokens"]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.:]+[A-Za-z_][A-Za-z0-9_]*)*|[0-9]+[A-Za-z]*[0-9]*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SPELLING = {"ise": "ize", "isation": "ization", "our": "or"}

#: Words that carry no subject; the commonest of English and of messages.
_STOP = frozenset({
    "a", "an", "and", "any", "are", "as", "at", "be", "been", "both", "but", "by", "can", "did", "do",
    "does", "each", "for", "from", "had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its",
    "kernel", "more", "my", "no", "not", "of", "on", "one", "only", "or", "our", "out", "should", "so",
    "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to",
    "too", "use", "used", "using", "very", "was", "we", "were", "what", "when", "where", "which", "while",
    "who", "why", "will", "with", "would", "you", "your", "error", "warning", "note", "line", "file"
})  # fmt: skip


def tokens(text: str) -> list[str]:
    """Index terms of ``text``, in order, with repetitions.

    ``tl.load_ptr`` gives itself, ``load``, ``ptr``; ``cudaErrorIllegalAddress`` gives itself and its words.
    """
    found: list[str] = []
    for word in _WORD.findall(text):
        whole = word.lower()
        parts = [part.lower() for piece in re.split(r"[._:]+", word) for part in _PART.findall(piece)]
        if len(parts) > 1:
            found.append(whole)
            parts = [part for part in parts if len(part) > 1 and not part.isdigit()]
        found += [_stem(part) for part in parts or [whole] if part not in _STOP]
    return found


def _stem(word: str) -> str:
    """A word without the endings that one thing takes on in different sentences (after Harman's S-stemmer,
    Journal of the ASIS 42(1), 1991, with ``-ing``, ``-ed`` and British spellings)."""
    for british, american in _SPELLING.items():
        if len(word) > len(british) + 3 and british in word:
            word = word.replace(british, american)
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ization", "izing", "ized", "izer", "ation", "ing", "ed", "er", "ly", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            word = word[: -len(ending)]
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiousl":
        word = word[:-1]
    return word
