"""A prompt in parts: each from a template file, each with what it derives from and how dear it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import jinja2
from attrs import evolve, frozen

from kevolve_core.errors import EgressError, ProviderError
from kevolve_core.llm.model import Message, byte_bound

__all__ = ["Left", "Part", "Prompt", "allowed", "assemble", "clear", "estimated_tokens", "fit", "template"]

_BYTES_A_TOKEN = 3  # of code and English mixed, on the short side (estimated)
_MARGIN = 256  # tokens for roles and a chat template (estimated)
_LEAST_LINES = 12  # of a part that is shortened (estimated)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("kevolve_core.llm", "prompts"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=False,
        autoescape=False,  # prompts are no HTML
        trim_blocks=True,
    )


def template(name: str, **values: Any) -> str:
    """The text of ``prompts/NAME.md``."""
    return _environment().get_template(f"{name}.md").render(**values).strip()


def estimated_tokens(text: str) -> int:
    """About how many tokens a text is; caps use `byte_bound` instead."""
    return byte_bound(text) // _BYTES_A_TOKEN + 1


@frozen
class Part:
    """One section of a prompt.

    Args:
        name: what it is, for reports: ``task``, ``parent``, ``knowledge: TITLE``, …
        text: rendered.
        value: parts of less value are left out first; None: the prompt is useless without it.
        order: place in the prompt.
        taint: confidential sources it derives from.
        shrinks: it may be shortened in its middle (a log).
    """

    name: str
    text: str
    value: float | None = None
    order: int = 0
    taint: frozenset[str] = frozenset()
    shrinks: bool = False

    @property
    def essential(self) -> bool:
        return self.value is None


@frozen
class Left:
    """A part that did not go out, and why: ``budget``, ``shortened`` or ``confidential``."""

    name: str
    why: str


@frozen
class Prompt:
    """Messages that may be sent to the provider they were cleared for, and what they lack."""

    messages: tuple[Message, ...]
    taint: frozenset[str]
    left: tuple[Left, ...]


def allowed(taint: Iterable[str], patterns: Sequence[str]) -> bool:
    """Whether a provider cleared for ``patterns`` may see what derives from ``taint``."""
    return all(any(fnmatchcase(source, pattern) for pattern in patterns) for source in taint)


def clear(parts: Sequence[Part], patterns: Sequence[str], provider: str) -> tuple[list[Part], list[Left]]:
    """Those ``parts`` that a provider may see, and those it may not.

    Raises:
        EgressError: an essential one is among the latter.
    """
    kept: list[Part] = []
    left: list[Left] = []
    for part in parts:
        if allowed(part.taint, patterns):
            kept.append(part)
        elif part.essential:
            raise EgressError(
                f"provider '{provider}' may not see what the request needs",
                got=f"{part.name}, which derives from {', '.join(sorted(part.taint))}",
                where="egress policy",
                mend=f"use a provider that may, or allow it: [providers.{provider}] confidential = [...]",
            )
        else:
            left.append(Left(part.name, "confidential"))
    return kept, left


def fit(parts: Sequence[Part], tokens: int) -> tuple[list[Part], list[Left]]:
    """``parts`` within about ``tokens``: the least valuable left out, then the longest shortened.

    Raises:
        ProviderError: of kind ``context``; the essential parts alone are too long.
    """
    kept, left = list(parts), []
    while _size(kept) > tokens:
        spare = [p for p in kept if not p.essential]
        if not spare:
            break
        worst = min(spare, key=lambda p: (p.value or 0.0, -p.order))
        others = _size(kept) - estimated_tokens(worst.text)
        shorter = _shortened(worst, tokens - others) if worst.shrinks else None
        place = kept.index(worst)
        if shorter is not None:
            kept[place] = shorter
            left.append(Left(worst.name, "shortened"))
            break
        del kept[place]
        left.append(Left(worst.name, "budget"))
    if _size(kept) > tokens:
        raise ProviderError(
            "the prompt does not fit into the model's context, even without what can be left out",
            kind="context",
            got=f"about {_size(kept)} tokens, {tokens} are free",
            mend="raise context_tokens where the server takes more, or lower max_output_tokens",
        )
    return kept, left


def _size(parts: Iterable[Part]) -> int:
    return sum(estimated_tokens(p.text) for p in parts) + _MARGIN


def _shortened(part: Part, tokens: int) -> Part | None:
    """The part with lines of its middle left out, None where too little would remain."""
    lines = part.text.splitlines()
    while lines and estimated_tokens("\n".join(lines)) > tokens - 16:
        if len(lines) <= _LEAST_LINES:
            return None
        del lines[len(lines) * 2 // 3]
    cut = len(part.text.splitlines()) - len(lines)
    lines.insert(len(lines) * 2 // 3, f"… {cut} lines left out …")
    return evolve(part, text="\n".join(lines))


def assemble(
    system: Part, parts: Sequence[Part], *, tokens: int, patterns: Sequence[str], provider: str
) -> Prompt:
    """The prompt for one provider: cleared first, then fitted, so that nothing withheld costs room.

    Raises:
        EgressError, ProviderError: as `clear` and `fit`.
    """
    cleared, withheld = clear([system, *parts], patterns, provider)
    fitted, dropped = fit(cleared, tokens)
    body = sorted((p for p in fitted if p is not system), key=lambda p: p.order)
    messages = (
        Message("system", system.text),
        Message("user", "\n\n".join(p.text for p in body)),
    )
    taint = frozenset(source for p in fitted for source in p.taint)
    return Prompt(messages, taint, (*withheld, *dropped))
