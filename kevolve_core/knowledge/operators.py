"""Names of what a reference computes, read from its source without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from kevolve_core import syntax

__all__ = ["FAMILIES", "canonical", "families", "operators_of"]

#: Spellings of one operator -> its name; others keep their own (``nn.GroupNorm`` is ``group_norm``).
_SAME = {
    "mm": "matmul", "bmm": "matmul", "addmm": "matmul", "baddbmm": "matmul", "mv": "matmul", "dot": "matmul",
    "einsum": "matmul", "linear": "linear", "bilinear": "linear", "gemm": "matmul", "batch_matmul": "matmul",
    "multi_dot": "matmul", "chain_matmul": "matmul", "outer": "matmul", "layernorm": "layer_norm",
    "rmsnorm": "rms_norm", "groupnorm": "group_norm", "batchnorm": "batch_norm",
    "batch_norm1d": "batch_norm", "batch_norm2d": "batch_norm", "batch_norm3d": "batch_norm",
    "instance_norm1d": "instance_norm", "instance_norm2d": "instance_norm",
    "instance_norm3d": "instance_norm", "softmax2d": "softmax", "softmin": "softmax",
    "scaled_dot_product_attention": "attention", "multihead_attention": "attention",
    "multi_head_attention_forward": "attention", "sdpa": "attention", "flash_attention": "attention",
    "absolute": "abs", "clip": "clamp", "clamp_min": "clamp", "clamp_max": "clamp", "divide": "div",
    "true_divide": "div", "multiply": "mul", "subtract": "sub", "concat": "cat", "concatenate": "cat",
    "permute": "transpose", "t": "transpose", "swapaxes": "transpose", "mt": "transpose",
    "avg_pool1d": "avg_pool", "avg_pool2d": "avg_pool", "avg_pool3d": "avg_pool",
    "max_pool1d": "max_pool", "max_pool2d": "max_pool", "max_pool3d": "max_pool",
    "embedding_bag": "embedding", "index_select": "gather", "take": "gather", "take_along_dim": "gather",
    "special_expm1": "expm1", "swish": "silu", "crossentropy": "cross_entropy",
    "cross_entropy_loss": "cross_entropy", "conv_transpose1d": "conv_transpose",
    "conv_transpose2d": "conv_transpose", "conv_transpose3d": "conv_transpose", "digitize": "bucketize",
    "cumulative_sum": "cumsum", "prefix_sum": "cumsum", "prefix_scan": "cumsum", "top_k": "topk",
    "si_lu": "silu",
    "re_lu": "relu", "re_lu6": "clamp", "ge_lu": "gelu", "leakyrelu": "leaky_relu", "hardtanh": "clamp",
    "relu6": "clamp", "logsoftmax": "log_softmax",
}  # fmt: skip

#: Family -> its members; a page or an experience about a family helps with each.
FAMILIES: dict[str, frozenset[str]] = {
    "matmul": frozenset({"matmul", "linear"}),
    "conv": frozenset({"conv", "conv1d", "conv2d", "conv3d", "conv_transpose", "depthwise_conv"}),
    "softmax": frozenset({"softmax", "log_softmax", "gumbel_softmax", "cross_entropy"}),
    "normalization": frozenset(
        {"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "normalize"}
    ),
    "reduction": frozenset(
        {
            "sum", "mean", "amax", "amin", "max", "min", "var", "std", "norm", "prod", "argmax", "argmin",
            "logsumexp", "softmax", "log_softmax", "cross_entropy", "layer_norm", "rms_norm", "group_norm",
            "instance_norm", "any", "all", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div",
            "cosine_similarity", "normalize", "var_mean",
        }
    ),
    "attention": frozenset({"attention"}),
    "scan": frozenset({"cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "associative_scan"}),
    "pooling": frozenset({"avg_pool", "max_pool", "adaptive_avg_pool2d", "adaptive_max_pool2d"}),
    "gather": frozenset({"gather", "embedding", "scatter", "scatter_add", "index_add", "index_put"}),
    "search": frozenset({"searchsorted", "bucketize", "map_id", "histc", "bincount"}),
    "sort": frozenset({"sort", "argsort", "topk", "kthvalue", "median", "unique"}),
    "pointwise": frozenset(
        {
            "add", "sub", "mul", "div", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "gelu",
            "silu", "mish", "elu", "selu", "softplus", "softsign", "leaky_relu", "hardswish", "hardsigmoid",
            "clamp", "abs", "pow", "sin", "cos", "erf", "where", "expm1", "log1p", "reciprocal", "sign",
        }
    ),
    "movement": frozenset({"transpose", "cat", "stack", "flip", "roll", "pad", "repeat"}),
    "recurrent": frozenset({"lstm", "gru", "rnn", "lstm_cell", "gru_cell"}),
}  # fmt: skip

_KNOWN = frozenset().union(*FAMILIES.values(), _SAME, _SAME.values())
_BINARY = {
    ast.MatMult: "matmul", ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow"
}  # fmt: skip
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def canonical(name: str) -> str:
    """The name of an operator in whatever spelling: ``torch.nn.GroupNorm``, ``aten::mm``, ``Softmax``."""
    last = re.split(r"[.:/]+", name.strip())[-1]
    words = _CAMEL.sub("_", last).lower().replace("-", "_").replace(" ", "_").strip("_")
    words = re.sub(r"conv_?(transpose)?(\dd)", lambda m: f"conv{'_transpose' if m[1] else m[2]}", words)
    words = words.removesuffix("_")  # in place
    return _SAME.get(words) or _SAME.get(words.replace("_", "")) or words


def families(operators: Iterable[str]) -> tuple[str, ...]:
    """Families that the operators belong to, sorted."""
    names = set(operators)
    return tuple(sorted(family for family, members in FAMILIES.items() if names & members))


def operators_of(source: str) -> tuple[str, ...]:
    """Operators that a PyTorch program calls, by name, sorted; ``()`` for text that is not Python.

    It reads names only, so a method of the user's own called ``softmax`` counts as one. Arithmetic on what
    may be a shape counts as pointwise work; that is noise a comparison of sets bears.
    """
    try:
        tree = syntax.parse(source)
    except (SyntaxError, ValueError):
        return ()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            found.add(_BINARY[type(node.op)])
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if isinstance(called, ast.Attribute) and getattr(called.value, "id", "") == "self":
                continue  # a submodule: its class was named where it was made
            if (operator := canonical(name)) in _KNOWN:
                found.add(operator)
    return tuple(sorted(found))
