"""References and input data as live objects: only in worker processes, never in the search loop.

`load_reference` builds the PyTorch program with its weights, `draw_inputs` its arguments; `variants` and
`layouts` name the test data that a case allows; `in_float64` gives the oracle's version.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec
from kevolve_core.spec.double import double_module, in_double
from kevolve_core.spec.draw import VARIANTS, draw_tensor, generator, laid_out, takes_special
from kevolve_core.spec.given import described_by_file, drawn_by_file
from kevolve_core.spec.importing import filename_of, import_reference, user_code
from kevolve_core.spec.randomness import Drawing, Scoped, Shaped, recording, replaying
from kevolve_core.spec.seeding import PROCESS, generator_states, seeded
from kevolve_core.spec.undrawn import Undrawn

__all__ = [
    "LoadedReference",
    "draw_inputs",
    "example_inputs",
    "in_float64",
    "layouts",
    "load_reference",
    "validate_runs",
    "variants",
]


@frozen(eq=False)
class LoadedReference:
    """A reference that runs.

    Args:
        call: takes the positional inputs, then one tensor for each of ``random_inputs``. For a reference that
            draws nothing it is the module or function itself.
        module: the module with its weights, in the spec's mode, its parameters without gradients; None for a
            function.
        init_args: positional arguments the module was constructed with.
        init_kwargs: keyword arguments the module was constructed with.
        random_inputs: what the reference would have drawn while running, as inputs.
        dtype: ``declared``, or ``float64`` for the oracle's version.
        refused: of the oracle's version, filled while it runs: operators that refuse float64 and ran in the
            declared dtype, or one entry that starts with ``whole reference``.
        seed: what weights and module-level constants were drawn from.
        drawn: whether all its tensors have their values; else only their types are to be looked at.
    """

    call: Callable[..., Any]
    module: torch.nn.Module | None
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = field(factory=dict)
    random_inputs: tuple[InputSpec, ...] = ()
    dtype: str = "declared"
    refused: list[str] = field(factory=list)
    seed: int = 0
    plain: Callable[..., Any] | None = field(default=None, repr=False)
    drawn: bool = True


def load_reference(spec: KernelSpec, case: Case, seed: int, *, undrawn: bool = False) -> LoadedReference:
    """The reference of ``spec``, constructed for ``case`` with weights from ``torch.manual_seed(seed)``. With
    ``undrawn``, large weights are left without values where its constructor allows it (see `Undrawn`).

    Raises:
        SpecError: it does not import, construct or run, or draws random numbers that cannot be made inputs;
            names the line of the user's file.
    """
    plain, args, kwargs, drawn = (
        _undrawn(spec, case, seed) if undrawn else (*_constructed(spec, case, seed), True)
    )
    module = plain if spec.reference.kind == "module" else None
    found = _random_inputs(spec, case, plain)
    call = _with_random_inputs(spec, case, plain, found) if found else plain
    return LoadedReference(call, module, args, kwargs, found, seed=seed, drawn=drawn, plain=plain)


def _undrawn(spec: KernelSpec, case: Case, seed: int) -> tuple[Any, tuple[Any, ...], dict[str, Any], bool]:
    """`_constructed` without large draws, and whether there were none; with them where it fails so."""
    try:
        with Undrawn() as mode:
            made = _constructed(spec, case, seed)
    except SpecError:  # it looks at the values of its weights, or cannot be constructed: then so says this
        return (*_constructed(spec, case, seed), True)
    if mode.looked:  # and did not mind an error
        return (*_constructed(spec, case, seed), True)
    return (*made, not mode.skipped)


def _constructed(spec: KernelSpec, case: Case, seed: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """(module or function as the user wrote it, positional and keyword arguments of its constructor)."""
    ref = spec.reference
    with seeded(seed):
        namespace = import_reference(spec)
        args, kwargs = _constructor_arguments(spec, case, namespace)
        target = namespace[ref.symbol]
        module: torch.nn.Module | None = None
        if ref.kind == "module":
            torch.manual_seed(seed)  # as KernelBench does: weights do not depend on what importing drew
            with user_code(spec, f"{ref.symbol}(...) cannot be constructed for case '{case.name}'"):
                module = target(*copy.deepcopy(args), **copy.deepcopy(kwargs))
            if not isinstance(module, torch.nn.Module):
                raise SpecError(
                    f"'{ref.symbol}' does not construct an nn.Module",
                    got=type(module).__name__,
                    where=ref.path or spec.name,
                    mend="name a class derived from torch.nn.Module, or a function",
                )
            module.train(spec.mode == "train").requires_grad_(False)
            _without_history(module)
        elif isinstance(target, type) or not callable(target):
            raise SpecError(
                f"'{ref.symbol}' is not a function",
                got="a class" if isinstance(target, type) else type(target).__name__,
                where=filename_of(spec),
                mend="write kind: module for an nn.Module" if isinstance(target, type) else None,
            )
    return (target if module is None else module), args, kwargs


def _without_history(module: torch.nn.Module) -> None:
    """Plain tensors that were computed from weights, as pruning leaves some, lose how: autograd refuses
    copies of the others."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                vars(part)[name] = value.detach()


def _constructor_arguments(
    spec: KernelSpec, case: Case, namespace: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ref = spec.reference
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {**ref.init, **case.init}
    if ref.init_from:
        with user_code(spec, f"{ref.init_from}() fails"):
            given = namespace[ref.init_from]()
        if isinstance(given, dict):
            kwargs = {**given, **kwargs}
        elif isinstance(given, (list, tuple)):
            args = tuple(given)
        else:
            raise SpecError(
                f"{ref.init_from}() must return a list of constructor arguments",
                got=type(given).__name__,
                where=ref.path or spec.name,
            )
    return args, kwargs


def draw_inputs(
    spec: KernelSpec, case: Case, seed: int, variant: str = "base", layout: str = "contiguous"
) -> tuple[Any, ...]:
    """CPU tensors and scalars for ``case``, in argument order, then the reference's random inputs.

    A pure function of its arguments. Inputs that do not declare ``layout`` keep their first one.
    """
    if variant not in VARIANTS:
        raise SpecError("there is no such variant of test data", got=variant, mend=", ".join(VARIANTS))
    given = (
        drawn_by_file(spec, case, seed, variant)
        if spec.reference.inputs_from and not case.inputs
        else _drawn(case, seed, variant, layout)
    )
    extra = _random_inputs(spec, case, None)
    return (*given, *(draw_tensor(s, "base", generator(seed, case.name, s.name), {}) for s in extra))


def example_inputs(spec: KernelSpec, case: Case, layout: str = "contiguous") -> tuple[Any, ...]:
    """What `draw_inputs` gives without its data: tensors on PyTorch's ``meta`` device, values of scalars."""
    if spec.reference.inputs_from and not case.inputs:
        given = described_by_file(spec)
    else:
        given = tuple(_example(s, layout) for s in case.inputs)
    return (*given, *(_example(s, "contiguous") for s in _random_inputs(spec, case, None)))


def _example(s: InputSpec, layout: str) -> Any:
    if s.shape is None:
        return s.value
    plain = torch.empty(tuple(int(n) for n in s.shape), dtype=getattr(torch, s.dtype), device="meta")
    return laid_out(plain, layout if layout in s.layouts else s.layouts[0])


def _drawn(case: Case, seed: int, variant: str, layout: str) -> tuple[Any, ...]:
    tensors: dict[str, torch.Tensor] = {}
    declared = {s.name: s for s in case.inputs}

    def draw(s: InputSpec) -> torch.Tensor:
        if s.name not in tensors:
            if (source := s.distribution.source) and source not in tensors:
                draw(declared[source])
            tensors[s.name] = draw_tensor(s, variant, generator(seed, case.name, s.name, variant), tensors)
        return tensors[s.name]

    return tuple(
        s.value if s.shape is None else laid_out(draw(s), layout if layout in s.layouts else s.layouts[0])
        for s in case.inputs
    )


def layouts(spec: KernelSpec, case: Case) -> tuple[str, ...]:
    """Memory layouts to test for ``case``: ``contiguous`` first, then every other that an input declares."""
    if spec.reference.inputs_from and not case.inputs:
        return ("contiguous",)
    declared = [name for s in case.inputs if s.shape is not None for name in s.layouts]
    return tuple(dict.fromkeys(["contiguous", *declared]))


def variants(spec: KernelSpec, case: Case) -> tuple[str, ...]:
    """Families of test data for ``case``, ``base`` first.

    A family is left out where it changes nothing, where an input forbids it (``special: false``), and where
    the reference raises on it or answers finite inputs with NaN; that is tried once on the smallest tune
    case.
    """
    allowed = _usable(spec)
    if not case.inputs and spec.reference.inputs_from:
        return allowed
    drawn = [s for s in case.inputs if s.shape is not None]
    floats = [s for s in drawn if getattr(torch, s.dtype).is_floating_point]
    varied = any(s.distribution.kind in {"normal", "uniform", "integers", "offsets", "choice"} for s in drawn)
    special = any(takes_special(s) for s in floats) and all(s.special for s in floats)
    return tuple(v for v in allowed if v == "base" or (special if v == "special" else varied))


_usable_cache: dict[str, tuple[str, ...]] = {}
_random_cache: dict[tuple[str, str], tuple[InputSpec, ...]] = {}
_operators: dict[tuple[str, str], int] = {}
#: Operators beyond which a reference is not traced: a recurrent layer has tens of thousands when it falls
#: apart into its steps, and neither runs nor compiles in its own way any more; estimated.
_TRACEABLE = 2000


def _usable(spec: KernelSpec) -> tuple[str, ...]:
    key = spec.fingerprint
    if key not in _usable_cache:
        case = smallest_case(spec)
        reference = load_reference(spec, case, 0)
        base_has_nan = _has_nan(reference.call(*draw_inputs(spec, case, 0)))
        names = ["base"]
        for variant in VARIANTS[1:]:
            inputs = draw_inputs(spec, case, 0, variant)
            try:
                out = reference.call(*inputs)
            except Exception:  # any refusal of the user's code means: not defined there
                continue
            if variant == "special" or base_has_nan or not _has_nan(out):
                names.append(variant)
        _usable_cache[key] = tuple(names)
    return _usable_cache[key]


def smallest_case(spec: KernelSpec) -> Case:
    """The tune case with the fewest input elements."""
    return min(spec.with_role("tune"), key=lambda c: sum(torch.Size(s.shape or ()).numel() for s in c.inputs))


def _has_nan(out: Any) -> bool:
    leaves = tree_leaves(out)
    return any(
        isinstance(v, torch.Tensor) and v.dtype.is_floating_point and bool(v.isnan().any()) for v in leaves
    )


def _random_inputs(spec: KernelSpec, case: Case, plain: Callable[..., Any] | None) -> tuple[InputSpec, ...]:
    """What the reference draws while it runs, found by one trial run a case and process."""
    with PROCESS:  # others must not see the entry that is made on the way
        key = (spec.fingerprint, case.name)
        if key in _random_cache:
            return _random_cache[key]
        if plain is None:
            plain = _constructed(spec, case, 0)[0]
        found: list[InputSpec] = []
        with seeded(0):
            before = generator_states()
            with user_code(spec, f"the reference fails on case '{case.name}'"):
                operators = _trial(spec, case, plain, found)
            if (after := generator_states()) != before:
                culprit = next(name for name in before if before[name] != after[name])
                raise SpecError(
                    f"the reference draws from {culprit} while it runs, which cannot be made an input",
                    where=spec.reference.path or spec.name,
                    mend="use torch.rand and its kin, or pass the drawn values as an input",
                )
        _random_cache[key] = tuple(found)
        _operators[key] = operators
        return _random_cache[key]


def _trial(spec: KernelSpec, case: Case, plain: Callable[..., Any], found: list[InputSpec]) -> int:
    """Run ``plain`` once, noting in ``found`` what it draws; the number of operators it ran. It runs without
    data where it can, which costs nothing whatever its sizes."""
    key = (spec.fingerprint, case.name)
    _random_cache[key] = ()  # the declared inputs alone
    try:
        try:
            target = _without_data(plain) if isinstance(plain, torch.nn.Module) else plain
            examples = example_inputs(spec, case)
            with recording(generator(0, case.name, "trial"), found) as tape, Shaped(tape), torch.no_grad():
                target(*examples)
            return int(tape.operators)
        except Exception:  # it looks at values, or holds tensors that are not its state: run it in full
            found.clear()
        inputs = draw_inputs(spec, case, 0)
        whole = copy.deepcopy(plain) if isinstance(plain, torch.nn.Module) else plain
        with recording(generator(0, case.name, "trial"), found) as tape:
            whole(*inputs)
        return int(tape.operators)
    finally:
        del _random_cache[key]


def _without_data(module: torch.nn.Module) -> torch.nn.Module:
    """A copy on PyTorch's ``meta`` device, made without a copy of the weights: they may be gigabytes."""
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(module, memo).to("meta")


def _with_random_inputs(
    spec: KernelSpec, case: Case, plain: Callable[..., Any], found: Sequence[InputSpec]
) -> Callable[..., Any]:
    """``plain`` with its random values as arguments: as a graph of ATen operators, so that every baseline
    compiler can have it, or where that would be long, itself with its draws replaced as it runs."""
    inputs = draw_inputs(spec, case, 0)
    split = len(inputs) - len(found)
    if _operators[spec.fingerprint, case.name] > _TRACEABLE:
        drawing = Drawing()
        target = copy.deepcopy(plain) if isinstance(plain, torch.nn.Module) else plain
        with seeded(0), drawing:
            target(*inputs[:split])

        def scoped(*values: Any) -> Any:
            with Scoped(replaying(values[split:]), drawing.functions):
                return plain(*values[:split])

        return scoped

    def replay(*values: Any) -> Any:
        with replaying(values[split:]):
            return plain(*values[:split])

    buffers = dict(plain.named_buffers()) if isinstance(plain, torch.nn.Module) else {}
    before = {name: b.clone() for name, b in buffers.items()}
    mend = "draw the random numbers outside of the reference and pass them as an input"
    with user_code(spec, "the reference's random numbers cannot be made inputs", mend):
        graph = make_fx(replay)(*inputs)
        # What Python read from the values of the first data would be frozen into the graph.
        other = make_fx(replay)(*draw_inputs(spec, case, 1))
        if graph.code != other.code:
            raise SpecError(
                "the reference draws random numbers and runs other operators for other inputs", mend=mend
            )
    for name, b in buffers.items():  # running statistics moved while tracing
        b.copy_(before[name])
    return graph  # type: ignore[no-any-return]


def in_float64(reference: LoadedReference) -> LoadedReference:
    """A deep copy that computes in float64 on float64 copies of its float inputs and weights.

    Dtype literals inside the reference are read as float64; see ``refused`` for what could not be.
    """
    plain = reference.plain
    assert plain is not None
    module = copy.deepcopy(reference.module)
    run: Callable[..., Any] = plain
    lower = torch.float32
    if module is not None:
        lower = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), lower)
        double_module(module)
        run = module
    if n := len(reference.random_inputs):
        inner = run

        def run(*values: Any) -> Any:
            with replaying(values[-n:]):
                return inner(*values[:-n])

    refused: list[str] = []
    return LoadedReference(
        in_double(run, reference.call, refused, lower),
        module,
        reference.init_args,
        reference.init_kwargs,
        reference.random_inputs,
        "float64",
        refused,
        reference.seed,
        plain,
    )


def validate_runs(spec: KernelSpec) -> None:
    """Run the reference on the smallest tune case.

    Raises:
        SpecError: it fails on the declared inputs, gives no tensor, or gives different results for the same
            inputs (hidden randomness, or state kept from call to call).
    """
    case = smallest_case(spec)
    reference = load_reference(spec, case, 0)
    first, second = (_run(spec, case, reference) for _ in range(2))
    tensors = [v for v in first if isinstance(v, torch.Tensor)]
    if not tensors:
        raise SpecError(
            "the reference returns no tensor",
            got=", ".join(type(v).__name__ for v in first) or "nothing",
            where=filename_of(spec),
        )
    same = len(first) == len(second) and all(_agree(a, b) for a, b in zip(first, second, strict=True))
    if not same:
        raise SpecError(
            "two runs of the reference on the same inputs differ",
            where=f"{filename_of(spec)}, case '{case.name}'",
            mend="draw random numbers with torch.rand and its kin, and keep no state from call to call",
        )


def _run(spec: KernelSpec, case: Case, reference: LoadedReference) -> list[Any]:
    inputs = draw_inputs(spec, case, 0)
    shapes = ", ".join(str(tuple(v.shape)) if isinstance(v, torch.Tensor) else repr(v) for v in inputs)
    with user_code(spec, f"the reference fails on case '{case.name}' with inputs {shapes}"):
        return tree_leaves(reference.call(*inputs))  # type: ignore[no-any-return]


def _agree(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point:
        return bool(torch.equal(a, b))
    # Parallel sums may round differently from run to run.
    slack = torch.finfo(a.dtype).eps ** 0.5
    return bool(torch.allclose(a.detach(), b.detach(), rtol=slack, atol=slack, equal_nan=True))
