"""An exported ``ModelNew`` that draws its own weights, as its reference draws them."""

from __future__ import annotations

import ast

from kevolve_core.errors import KevolveError
from kevolve_core.syntax import parse

__all__ = ["with_reference_weights"]


def with_reference_weights(text: str, source: str, symbol: str = "Model") -> str:
    """The exported file with a ``ModelNew`` that takes the reference's constructor arguments.

    What `export` writes has room for weights, which ``load_state_dict`` fills. A caller that compares two
    models constructs both from one seed instead and never copies weights (KernelBench's evaluator does). So
    the reference's source goes along: constructing ``ModelNew`` constructs the reference, and takes what it
    drew. Nothing else of the reference is used.

    Args:
        text: of the exported file; defines ``ModelNew``.
        source: Python text that defines the reference; it must not draw numbers when it is imported.
        symbol: the reference's class.

    Raises:
        KevolveError: ``source`` is not valid Python or has no such class.
    """
    try:
        tree = parse(source)
    except SyntaxError as error:
        raise KevolveError(
            "the reference is not valid Python", got=error.msg, where=f"line {error.lineno}"
        ) from error
    if not any(isinstance(n, ast.ClassDef) and n.name == symbol for n in tree.body):
        raise KevolveError("the reference does not define the class", got=symbol)
    quoted = source.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    return f'''{text.rstrip()}


_REFERENCE = """
{quoted.strip()}
"""


def _reference():
    """The class whose seeded initialisation `ModelNew` repeats."""
    namespace = {{"__name__": "reference"}}
    exec(compile(_REFERENCE, "reference.py", "exec"), namespace)
    return namespace["{symbol}"]


_Reference = _reference()
_Kernels = ModelNew


class ModelNew(_Kernels):
    """The kernels, with the weights that the reference would draw now."""

    def __init__(self, *arguments, **options):
        drawn = _Reference(*arguments, **options).state_dict()
        super().__init__(*arguments, **options)
        self.load_state_dict(drawn)
'''
