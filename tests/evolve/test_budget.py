"""Budgets from words."""

import pytest

from kevolve_core.errors import ConfigError
from kevolve_core.evolve import Budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", Budget(seconds=60)),
        ("5m", Budget(seconds=300)),
        ("1.5h", Budget(seconds=5400)),
        ("200", Budget(candidates=200)),
        ("100c,60s", Budget(candidates=100, seconds=60)),
        (" 60S , 100 ", Budget(candidates=100, seconds=60)),
    ],
)
def test_a_budget_is_parsed(text: str, expected: Budget) -> None:
    assert expected == Budget.parse(text)


@pytest.mark.parametrize("text", ["", "s", "60x", "1.5c", "-5s", "60s,", "10s,5m", "0", "inf"])
def test_a_budget_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        Budget.parse(text)


@pytest.mark.parametrize(
    "limits", [{"candidates": 0}, {"seconds": -1}, {"money": float("nan")}, {"stall": 0}]
)
def test_an_unusable_limit_is_an_error(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Budget(**limits)  # type: ignore[arg-type]


def test_a_budget_without_limits_is_unlimited() -> None:
    assert (Budget().unlimited, Budget(stall=3).unlimited) == (True, False)
