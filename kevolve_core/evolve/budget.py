"""What a search may consume, and when it has gone on long enough."""

from __future__ import annotations

import math
import re

from attrs import fields_dict, frozen

from kevolve_core.errors import ConfigError

__all__ = ["Budget"]

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_MEND = "write candidates and time, such as `200`, `200c`, `90s`, `5m`, `1h` or `100c,60s`"


@frozen
class Budget:
    """Limits of the search; the first one reached ends it. None is no limit.

    Racing and confirming the finalists comes on top: it costs a few evaluations whatever the budget.

    Args:
        candidates: distinct candidates evaluated (duplicates are free).
        seconds: active wall time, summed over all sittings of a run.
        tokens: language-model tokens.
        money: in the provider's currency.
        stall: stop after this many proposals told without a new best.
        floor_headroom: stop when the best is within this fraction of the floor (compulsory bytes over
            measured bandwidth plus launch) on every timed case; 0.05 means at most 5 % above it.
    """

    candidates: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    money: float | None = None
    stall: int | None = None
    floor_headroom: float | None = None

    def __attrs_post_init__(self) -> None:
        for name in fields_dict(Budget):
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (name in {"candidates", "stall"} and value < 1):
                raise ConfigError(
                    f"a budget's '{name}' is not a usable limit",
                    got=value,
                    mend="give a positive number, or leave it out for no limit",
                )

    @property
    def unlimited(self) -> bool:
        """Nothing ends a search with this budget but its generator or its caller."""
        return all(getattr(self, name) is None for name in fields_dict(Budget))

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From words: ``60s``, ``5m``, ``1h``, ``200`` or ``200c`` (candidates), ``100c,60s``.

        Raises:
            ConfigError: says which part is not understood.
        """
        found: dict[str, float] = {}
        for part in text.split(","):
            match = _TERM.fullmatch(part.strip().lower())
            number, unit = (match[1], match[2]) if match else ("", "?")
            if unit in _SECONDS:
                name, value = "seconds", float(number) * _SECONDS[unit]
            elif unit in {"", "c"} and number.isdigit():
                name, value = "candidates", int(number)
            else:
                raise ConfigError("a budget is not understood", got=part.strip() or text, mend=_MEND)
            if name in found:
                raise ConfigError(f"a budget names {name} twice", got=text, mend=_MEND)
            found[name] = value
        candidates = found.get("candidates")
        return cls(candidates=None if candidates is None else int(candidates), seconds=found.get("seconds"))
