"""The typed loop IR: the contract between `synth` (which lowers to it) and renderers (which print it)."""

from kevolve_core.ir.affine import Affine, address, affine
from kevolve_core.ir.attention import Attention
from kevolve_core.ir.expr import (
    COSTLY,
    OPS,
    Const,
    Expr,
    Index,
    Load,
    Op,
    Var,
    axes_of,
    children,
    loads_of,
    vars_of,
    walk,
)  # fmt: skip
from kevolve_core.ir.linear import Instruction, linear
from kevolve_core.ir.program import (
    COMBINERS,
    Axis,
    Buffer,
    Contract,
    Let,
    LibraryCall,
    LoopNest,
    Operand,
    OutputRef,
    Program,
    Reduce,
    Scan,
    Search,
    Single,
    Statement,
    Step,
    Store,
    itemsize,
    singles,
)
from kevolve_core.ir.subset import Subset

__all__ = [
    "COMBINERS", "COSTLY", "OPS", "Affine", "Attention", "Axis", "Buffer", "Const", "Contract", "Expr",
    "Index", "Instruction", "Let", "LibraryCall", "Load", "LoopNest", "Op", "Operand", "OutputRef", "Program",
    "Reduce", "Scan", "Search", "Single", "Statement", "Step", "Store", "Subset", "Var", "address", "affine",
    "axes_of", "children", "itemsize", "linear", "loads_of", "singles", "vars_of", "walk",
]  # fmt: skip
