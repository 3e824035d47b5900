"""Problems of a checkout, their smaller versions, and the summary of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kevolve_core.bench.environment import commit
from kevolve_core.bench.kernelbench import BenchSettings, read_rows, run_kernelbench
from kevolve_core.bench.problems import find_problems, spec_of
from kevolve_core.bench.shrink import Budget, cost_of, shrunk
from kevolve_core.bench.summary import markdown, sitting, summary
from kevolve_core.errors import ConfigError, SpecError

LINEAR = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.heads = heads

    def forward(self, x):
        return self.layer(x).view(x.shape[0], self.heads, -1) + x[:, None, :1]

batch_size = 64
width = 256 * 4
heads = 8

def get_inputs():
    return [torch.rand(batch_size, width)]

def get_init_inputs():
    return [width, heads]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for level in (1, 2):
        folder = tmp_path / "KernelBench" / f"level{level}"
        folder.mkdir(parents=True)
        for number in (10, 9):
            (folder / f"{number}_Linear.py").write_text(LINEAR)
    return tmp_path


def test_problems_come_by_level_and_number(checkout: Path) -> None:
    assert [p.id for p in find_problems(checkout, (1, 2))] == ["1/9", "1/10", "2/9", "2/10"]


def test_the_folder_with_the_levels_will_do_as_root(checkout: Path) -> None:
    assert [p.id for p in find_problems(checkout / "KernelBench", (2,), ["2/10"])] == ["2/10"]


def test_a_degenerate_problem_says_why(checkout: Path) -> None:
    reasons = [p.degenerate for p in find_problems(checkout, (2,))]
    assert reasons == ["its output is constant", ""]


@pytest.mark.parametrize(("levels", "only"), [((4,), ()), ((1,), ("1/77",))])
def test_a_level_or_problem_that_is_not_there_is_refused(
    checkout: Path, levels: tuple[int, ...], only: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError, match=r"such level|such problem"):
        find_problems(checkout, levels, only)


def test_another_folder_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no checkout of KernelBench"):
        find_problems(tmp_path, (1,))


def test_sizes_are_halved_until_the_work_fits() -> None:
    small = shrunk(LINEAR, Budget(flops=1e6, elements=3e4))
    cost = cost_of(small)
    assert cost.flops <= 1e6
    assert cost.elements <= 3e4
    assert "heads = 8" in small


def test_a_problem_that_fits_is_left_alone() -> None:
    assert shrunk(LINEAR, Budget(1e12, 1e12)) == LINEAR
    assert shrunk(LINEAR, None) == LINEAR


def test_a_halving_that_does_not_run_is_taken_back() -> None:
    fixed = LINEAR.replace(
        "self.layer = torch.nn.Linear(width, width)", "self.layer = torch.nn.Linear(1024, width)"
    )
    small = shrunk(fixed, Budget(1e6, 3e4))
    assert "width = 256 * 4" in small or "width = 1024" in small
    assert "batch_size = 64" not in small


def test_a_problem_that_never_runs_is_an_error() -> None:
    with pytest.raises(SpecError, match="does not run"):
        shrunk(LINEAR.replace("x[:, None, :1]", "x[:, :3, :3]"), Budget(1e6, 1e4))


def test_the_spec_of_a_problem_has_its_sizes(checkout: Path) -> None:
    problem = find_problems(checkout, (1,))[0]
    spec = spec_of(problem, shrunk(LINEAR, Budget(1e6, 3e4)))
    assert (spec.name, spec.reference.inputs_from) == ("l1_9_Linear", "get_inputs")


def test_rows_of_other_settings_are_not_mixed(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    settings = BenchSettings(str(checkout), (1,), check_only=True, scale="tiny")
    (out / "settings.json").write_text(json.dumps({**settings.identity(), "scale": "full"}))
    with pytest.raises(ConfigError, match="other settings"):
        run_kernelbench(settings, out)


def test_a_scale_that_is_not_there_is_refused(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="such scale"):
        run_kernelbench(BenchSettings(str(checkout), (1,), scale="smal"), tmp_path / "out")


def test_the_latest_row_of_a_problem_counts_and_a_torn_one_does_not(tmp_path: Path) -> None:
    lines = [{"id": "1/2", "correct": False}, {"id": "1/10"}, {"id": "1/2", "correct": True}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(x) for x in lines) + '\n{"id": "1/3"')
    assert read_rows(tmp_path) == [{"id": "1/2", "correct": True}, {"id": "1/10"}]


def _row(number: str, correct: bool, generated: bool, **more: object) -> dict[str, object]:
    return {"id": number, "name": "n", "correct": correct, "generated_correct": generated, **more}


ROWS = [
    _row("1/1", True, True, ratio=2.0, ratio_to={"eager": 4.0}),
    _row("1/2", True, False, ratio=0.5, ratio_to={"eager": 1.0}, libraries=["aten::sort"]),
    _row("2/1", False, False, reason="wrong"),
    _row("2/9", True, True, degenerate="constant", ratio=99.0),
]


def test_degenerate_problems_are_in_no_mean() -> None:
    found = summary(ROWS)
    assert tuple(found["all"][k] for k in ("total", "correct", "generated_correct")) == (3, 2, 1)
    assert pytest.approx(found["all"]["geomean"]) == 1.0
    assert pytest.approx(found["all"]["geomean_to_eager"]) == 2.0
    assert found["degenerate"]["total"] == 1


def test_what_is_delivered_is_never_slower_than_the_baseline() -> None:
    rows = [
        {"id": "1/1", "correct": True, "ratio": 0.5, "delivered": "baseline"},
        {"id": "1/2", "correct": True, "ratio": 4.0, "delivered": "candidate"},
    ]
    assert summary(rows)["all"]["geomean_delivered"] == pytest.approx(2.0)


def test_a_sitting_says_what_share_of_its_time_the_device_had_work() -> None:
    rows = [{"tried": 8, "device_s": 3.0, "timed_s": 0.5}, {"tried": 4, "device_s": 5.0, "timed_s": 0.5}]
    assert sitting(rows, 10.0) == {
        "problems": 2, "candidates": 12, "seconds": 10.0, "candidates_per_s": 1.2, "held": 0.8, "timed": 0.1,
    }  # fmt: skip


def test_fast_p_counts_what_is_not_solved() -> None:
    assert pytest.approx(summary(ROWS)["all"]["fast_p"]["1.0"]) == 1 / 3


def test_the_report_says_what_failed_and_what_the_library_solved() -> None:
    text = markdown(ROWS, "KernelBench", "kevolve bench")
    assert "- 2/1 n: wrong" in text
    assert "- 1/2 n: aten::sort" in text


def test_a_copy_says_which_commit_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEVOLVE_COMMIT", "abc1234")
    assert commit() == "abc1234"


def test_a_problem_that_needs_a_missing_package_says_which() -> None:
    source = LINEAR.replace("import torch\n", "import torch\nimport package_that_is_not_there\n", 1)
    with pytest.raises(SpecError, match="package_that_is_not_there") as caught:
        shrunk(source, Budget(1e6, 1e4), "problem.py")
    assert caught.value.mend == "pip install package_that_is_not_there"
