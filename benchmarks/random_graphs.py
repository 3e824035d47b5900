"""Random references from a grammar of tensor expressions, for op_suite.py; each a function of its seed."""

from __future__ import annotations

import random

from kevolve_core.kernelspec import Case, Distribution, InputSpec, KernelSpec, Reference

__all__ = ["random_spec"]

Shape = tuple[int, ...]

_POINT = ("torch.tanh({a})", "torch.sigmoid({a})", "F.relu({a})", "F.gelu({a})", "{a} * 0.5 + 1.0", "-{a}",
          "{a}.abs() + 0.1", "torch.exp(-{a}.abs())", "{a}.clamp(-1.0, 1.0)", "F.silu({a})", "{a} * {a}",
          "torch.where({a} > 0, {a}, {a} * 0.1)", "{a}.sin()", "({a}.abs() + 1.0).sqrt()")  # fmt: skip
_ROWS = ("{a}.softmax({d})", "{a} - {a}.mean({d}, keepdim=True)", "{a}.log_softmax({d})", "{a}.flip({d})",
         "{a} - {a}.amax({d}, keepdim=True)", "{a}.cumsum({d}) * 0.1",
         "{a} / ({a}.norm(dim={d}, keepdim=True) + 1.0)",
         "{a}.roll(2, {d})", "{a} * {a}.var({d}, keepdim=True)")  # fmt: skip
_JOINS = (
    "{a} + {b}",
    "{a} * {b}",
    "torch.maximum({a}, {b})",
    "{a} - 0.3 * {b}",
    "torch.where({a} > {b}, {a}, {b})",
)


def random_spec(seed: int) -> KernelSpec:
    """A reference of 3 to 10 operators over two or three inputs of ragged sizes."""
    rng = random.Random(f"graph:{seed}")
    sizes = [rng.choice((1, 2, 3, 5, 7, 8, 17)) for _ in range(3)]
    shapes: dict[str, Shape] = {"x": tuple(sizes), "y": tuple(sizes)}
    if rng.random() < 0.5:
        shapes["z"] = (rng.choice((1, sizes[1])), sizes[2])
    inputs = tuple(
        InputSpec(n, s, "float32", Distribution(), ("contiguous", rng.choice(("transposed", "strided"))))
        for n, s in shapes.items()
    )
    lines: list[str] = []
    for k in range(rng.randint(3, 10)):
        text, shape = _step(shapes, rng)
        name = f"v{k}"
        lines.append(f"    {name} = {text}")
        shapes[name] = shape
    results = [f"v{len(lines) - 1}"]
    if rng.random() < 0.3 and len(lines) > 1:
        results.append(f"v{rng.randrange(len(lines) - 1)}")
    body = "\n".join(
        [f"def f({', '.join(s.name for s in inputs)}):", *lines, f"    return {', '.join(results)}"]
    )
    source = f"import torch\nimport torch.nn.functional as F\n\n\n{body}\n"
    return KernelSpec(f"graph_{seed}", Reference(source, "f"), (Case("default", inputs),))


def _step(shapes: dict[str, Shape], rng: random.Random) -> tuple[str, Shape]:
    names = list(shapes)
    a = rng.choice(names[-4:])
    s = shapes[a]
    kind = rng.randrange(9)
    if kind == 0 and s:
        d = rng.randrange(len(s))
        return rng.choice(_ROWS).format(a=a, d=d), s
    if kind == 1:
        mates = [n for n in names if shapes[n] == s]
        return rng.choice(_JOINS).format(a=a, b=rng.choice(mates)), s
    if kind == 2 and len(s) > 1:
        d = rng.randrange(len(s))
        text = rng.choice(("{a}.sum({d})", "{a}.mean({d})", "{a}.amax({d})", "{a}.logsumexp({d})"))
        return text.format(a=a, d=d), (*s[:d], *s[d + 1 :])
    if kind == 3 and len(s) > 1:
        i, j = rng.sample(range(len(s)), 2)
        order = list(s)
        order[i], order[j] = order[j], order[i]
        return f"{a}.transpose({i}, {j})", tuple(order)
    if kind == 4 and s:
        d = rng.randrange(len(s))
        mates = [
            n
            for n in names
            if len(shapes[n]) == len(s) and shapes[n][:d] == s[:d] and shapes[n][d + 1 :] == s[d + 1 :]
        ]
        b = rng.choice(mates)
        return f"torch.cat([{a}, {b}], {d})", (*s[:d], s[d] + shapes[b][d], *s[d + 1 :])
    if kind == 5 and s and s[-1] > 1:
        start = rng.randrange(s[-1] - 1)
        n = len(range(start, s[-1], 2))
        return f"{a}[..., {start}::2]", (*s[:-1], n)
    if kind == 6 and len(s) > 1:
        return f"{a} @ {a}.transpose(-1, -2) * 0.1", (*s[:-1], s[-2])
    if kind == 7 and len(s) == 3 and s[-1] > 2:
        pool = rng.choice(("max", "avg"))
        return f"F.{pool}_pool1d({a}, 2)", (*s[:2], s[2] // 2)
    return rng.choice(_POINT).format(a=a), s
