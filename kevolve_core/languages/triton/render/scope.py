"""Where generated statements go: the body of a kernel, and the loops inside it."""

from __future__ import annotations

from attrs import define, field

from kevolve_core.ir import Expr

__all__ = ["Scope", "Text"]


@define
class Text:
    """A printed value: its source, the IR dtype it has in Triton, the tile dimensions it has (``R``, ``C``),
    and whether it can be an operand without parentheses."""

    source: str
    dtype: str
    dims: frozenset[str] = frozenset()
    atom: bool = False
    literal: bool = False

    @property
    def operand(self) -> str:
        return self.source if self.atom else f"({self.source})"


@define
class Scope:
    """Lines of one block, and the values already printed there or further out."""

    outer: Scope | None = None
    lines: list[str] = field(factory=list)
    known: dict[Expr | str, Text] = field(factory=dict)

    def find(self, key: Expr | str) -> Text | None:
        scope: Scope | None = self
        while scope is not None:
            if (found := scope.known.get(key)) is not None:
                return found
            scope = scope.outer
        return None

    @property
    def root(self) -> Scope:
        return self if self.outer is None else self.outer.root

    def block(self, header: str, body: Scope) -> None:
        self.lines.append(header)
        self.lines += [f"    {line}" for line in body.lines]
