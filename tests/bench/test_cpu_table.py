"""The fixed table of the CPU: its problems, and what a row says."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cpu_table


def test_the_table_has_sixty_problems() -> None:
    own = dict(cpu_table.named_specs(None))
    assert len(own) + len(set(cpu_table.KERNELBENCH)) == 60


def test_a_ratio_within_what_repeats_is_no_regression() -> None:
    assert [cpu_table.outcome(r) for r in (1.5, 1.01, 0.99, 0.9)] == [
        "faster",
        "equal",
        "equal",
        "regression",
    ]


def test_a_regression_names_the_library_calls_it_shares() -> None:
    row = {"libraries": ["aten::mm"], "eager": 1.1, "compile": 0.9, "bottleneck": "compute", "hint": "h"}
    assert cpu_table.explained(row).split("; ") == [
        "calls aten::mm, which the baseline calls too",
        "torch.compile fuses it too (eager 1.10)",
        "compute-bound: h",
    ]


def test_a_torn_last_row_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "gelu", "ratio": 2.0}\n{"id": "si')
    assert list(cpu_table.read_rows(tmp_path)) == ["gelu"]
