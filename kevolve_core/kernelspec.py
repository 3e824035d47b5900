"""`KernelSpec`: what to compute, on what inputs, how exactly and against whom. Pure data.

Loading, checking and writing specs is `kevolve_core.spec`; running a reference happens in worker processes
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import field, frozen

from kevolve_core.model import Candidate, content_hash, freeze

__all__ = ["Case", "Distribution", "InputSpec", "KernelSpec", "Precision", "Reference"]


@frozen
class Distribution:
    """How values of an input are drawn.

    ``kind`` is one of ``normal`` (mean ``low``, standard deviation ``high``; default 0 and 1), ``uniform``
    and ``integers`` (``[low, high)``), ``sorted`` (ascending draws in ``[low, high)`` along the last
    dimension), ``unique_sorted`` (the same, strictly ascending), ``offsets`` (monotone from 0 to ``high``
    along the last dimension), ``permutation`` (of ``0..n-1`` along the last dimension), ``bernoulli``
    (probability ``high``), ``constant`` (``low``), ``choice`` (from the flattened values of the input named
    ``source`` with probability ``high``, else from ``[low, …)`` misses; without ``low`` from the range of the
    source). Declared ends are a promise: every variant of the test data stays within them. Only ``normal``
    floats and ``uniform`` ones without ends are also tried at large magnitude and with infinities and NaN.
    """

    kind: str = "normal"
    low: Any = None  # int or float, as written: 64-bit ids keep every digit
    high: Any = None
    source: str | None = None


@frozen
class InputSpec:
    """One positional argument of the reference: a tensor, or a Python scalar when ``shape`` is None.

    Args:
        name: the argument's name.
        shape: static shape in elements, None for a scalar.
        dtype: torch's name (``float32``, ``int64``, ``bool``, …).
        distribution: how values are drawn within the spec's constraints.
        layouts: memory layouts to test: ``contiguous``, ``transposed`` (last two dims), ``strided`` (every
        other
            element of a wider buffer), ``offset`` (a view that starts inside its storage).
        value: the scalar's value where ``shape`` is None.
        special: whether infinities and NaN may occur (only where the reference defines the result).
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str = "float32"
    distribution: Distribution = field(factory=Distribution)
    layouts: tuple[str, ...] = ("contiguous",)
    value: Any = None
    special: bool = True


@frozen
class Case:
    """One static set of input shapes. ``role`` is ``tune`` or ``holdout``; weight 0 checks without timing.

    ``init`` are keyword arguments of the reference module's constructor for this case, over the spec's own.
    """

    name: str
    inputs: tuple[InputSpec, ...] = ()
    role: str = "tune"
    weight: float = 1.0
    init: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)


@frozen
class Reference:
    """The PyTorch program that defines the answer.

    Args:
        source: text of the Python module.
        symbol: the class (an ``nn.Module``) or function in it.
        kind: ``module`` or ``function``.
        path: the file it came from, for messages ("" when inline).
        search_path: directories its own imports need.
        init: keyword arguments of the constructor.
        init_from: name of a function returning the constructor's positional arguments (``get_init_inputs``).
        inputs_from: name of a function returning the inputs (``get_inputs``); cases then carry no inputs of
            their own and shapes are read by running it.
    """

    source: str
    symbol: str
    kind: str = "function"
    path: str = ""
    search_path: tuple[str, ...] = ()
    init: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    init_from: str = ""
    inputs_from: str = ""


@frozen
class Precision:
    """``parity`` (error at most twice the baseline's, DESIGN of the evaluator) or ``relaxed`` with rtol and
    atol."""

    policy: str = "parity"
    rtol: float = 0.0
    atol: float = 0.0


@frozen
class KernelSpec:
    """What to compute and how the result is judged.

    Args:
        name: identifier, also of output files.
        reference: the PyTorch program.
        cases: named input cases, at least one of role ``tune`` with positive weight.
        precision: the tolerance policy.
        objective: ``latency`` (the only one so far).
        mode: ``eval`` or ``train``: how a module is captured and run.
        targets: names of backends this spec is meant for (empty: any).
        seeds: the user's own kernels: parents and baselines at once.
        options: evaluator options by name (``timeout_s``, ``memory_bytes``, ``library_calls`` =
        ``report|forbid``).
    """

    name: str
    reference: Reference
    cases: tuple[Case, ...]
    precision: Precision = field(factory=Precision)
    objective: str = "latency"
    mode: str = "eval"
    targets: tuple[str, ...] = ()
    seeds: tuple[Candidate, ...] = ()
    options: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)

    @property
    def fingerprint(self) -> str:
        """Content hash of everything that changes what is computed or judged."""
        body = attrs.asdict(
            self,
            filter=lambda a, _: a.name not in {"path", "search_path", "origin"},
            value_serializer=_plain_mapping,
        )
        return content_hash(body)[:16]

    def case(self, name: str) -> Case:
        for case in self.cases:
            if case.name == name:
                return case
        raise KeyError(name)

    def with_role(self, role: str) -> tuple[Case, ...]:
        return tuple(c for c in self.cases if c.role == role)

    @property
    def timed_cases(self) -> tuple[Case, ...]:
        """The tune cases that count in the objective."""
        return tuple(c for c in self.cases if c.role == "tune" and c.weight > 0)


def _plain_mapping(_inst: object, _attribute: object, value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
