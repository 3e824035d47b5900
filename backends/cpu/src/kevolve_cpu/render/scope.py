"""Places in the generated code: nested blocks, each of which knows the loop axes bound so far."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from kevolve_cpu.render.operators import Value

__all__ = ["Scope"]


@define(eq=False)
class Scope:
    """One block.

    Args:
        bound: axes whose loop variables are in scope.
        parent: the enclosing block.
        width: lanes of values that span the vector axis here (1: none).
        tail: the name of the argument that says which lanes are in range, or "" where all are.
    """

    bound: frozenset[str]
    parent: Scope | None = None
    width: int = 1
    tail: str = ""
    depth: int = 0
    lines: list[str] = field(factory=list)
    texts: dict[str, Value] = field(factory=dict)
    values: dict[str, Value] = field(factory=dict)

    def chain(self) -> Iterator[Scope]:
        """This block and those around it, innermost first."""
        at: Scope | None = self
        while at is not None:
            yield at
            at = at.parent

    def at_depth(self, depth: int) -> Scope:
        return next(s for s in self.chain() if s.depth == depth)

    def home(self, axes: frozenset[str]) -> int:
        """Depth of the outermost block in which all of ``axes`` are bound."""
        return [s.depth for s in self.chain() if axes <= s.bound][-1]

    def value(self, name: str) -> tuple[Value, int] | None:
        """The value of a named statement and the depth of the block that holds it."""
        return next(((s.values[name], s.depth) for s in self.chain() if name in s.values), None)

    def known(self, text: str) -> tuple[Value, int] | None:
        """The variable that holds ``text`` already, if any."""
        return next(((s.texts[text], s.depth) for s in self.chain() if text in s.texts), None)

    def inner(self, *axes: str, width: int | None = None, tail: str | None = None) -> Scope:
        """A block inside this one that binds ``axes`` too."""
        return Scope(
            self.bound | frozenset(axes),
            self,
            self.width if width is None else width,
            self.tail if tail is None else tail,
            self.depth + 1,
        )

    def block(self, header: str, inner: Scope, footer: str = "}") -> None:
        """Append ``inner`` as a braced block."""
        self.lines.append(header)
        self.lines.extend(f"    {line}" if not line.startswith("#") else line for line in inner.lines)
        self.lines.append(footer)
