"""What each command prints and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import TOY, Kevolve


def test_evolve_prints_the_result_with_its_evidence_and_where_it_is(kevolve: Kevolve) -> None:
    said = kevolve("evolve", "spec.yaml", *TOY, "--budget", "25c", "--out", "run")
    assert said.code == 0
    (line,) = [line for line in said.out.splitlines() if line.startswith("add_one: ")]
    assert "] measured over torch.compile on Toy 9000" in line
    assert f"kernel          {Path('run/kernel.py').absolute()}" in said.out


def test_progress_degrades_to_plain_lines(kevolve: Kevolve) -> None:
    said = kevolve("evolve", "spec.yaml", *TOY, "--budget", "25c")
    lines = said.out.splitlines()
    assert lines[0] == "add_one on Toy 9000 (toy:0), toy, evolutionary, seed 0"
    assert any("] best so far 1." in line and "measured, quick timing" in line for line in lines)
    assert any("search ended (candidates); racing the best candidates" in line for line in lines)
    assert "\x1b" not in said.out


def test_json_leaves_stdout_to_the_report(kevolve: Kevolve) -> None:
    said = kevolve("evolve", "spec.yaml", *TOY, "--budget", "25c", "--out", "run", "--json")
    assert json.loads(said.out) == json.loads(Path("run/report.json").read_text())
    assert "best so far" in said.err


def test_a_run_that_beat_nothing_says_so_and_succeeds(
    kevolve: Kevolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_LIMIT", "0.9")
    said = kevolve("evolve", "spec.yaml", *TOY, "--budget", "10c", "--out", "run")
    assert said.code == 0
    assert "The kernel is the baseline." in said.out


def test_a_seed_kernel_takes_part(kevolve: Kevolve) -> None:
    Path("mine.py").write_text("def add_one(x):\n    return x + 1\n")
    kevolve("evolve", "spec.yaml", *TOY, "--budget", "3c", "--out", "run", "--seed-kernel", "mine.py")
    first = json.loads(Path("run/report.json").read_text())["trajectory"][0]
    assert first["operator"] == "given"


def test_backend_without_a_value_takes_the_only_ready_one(kevolve: Kevolve) -> None:
    assert kevolve("evolve", "spec.yaml", *TOY, "--budget", "2c", "--backend").code == 0


def test_show_has_status_result_and_leaders(kevolve: Kevolve, done: Path) -> None:
    said = kevolve("show", str(done))
    assert said.code == 0
    assert "finished, search ended by candidates" in said.out
    assert "best of the search (quick timing)" in said.out


def test_show_candidate_has_sources_and_evaluation(kevolve: Kevolve, done: Path) -> None:
    best = json.loads((done / "report.json").read_text())["kernel"]["id"]
    said = kevolve("show", str(done), "--candidate", best[:6])
    assert "--- kernel.py" in said.out
    assert "def add_one(x):" in said.out
    assert "confirm:" in said.out


def test_repro_repeats_a_failure_with_its_inputs_and_says_so(kevolve: Kevolve, done: Path) -> None:
    trajectory = json.loads((done / "report.json").read_text())["trajectory"]
    number = next(p["sequence"] for p in trajectory if p["verdict"] == "wrong_result")
    said = kevolve("repro", f"{done}:{number}", "--executor", "toy")
    assert said.code == 0
    assert "wrong result in stage 'cases': value [3, 17] is off by 0.25" in said.out
    assert "index:    [3, 17]" in said.out
    assert "reproduced: the verdict is the one stored" in said.out


def test_repro_of_another_verdict_is_a_failure(
    kevolve: Kevolve, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_VERDICT", "crash")
    said = kevolve("repro", f"{done}:confirm:0", "--executor", "toy")
    assert said.code == 1
    assert "NOT reproduced; stored was:" in said.out


def test_compare_does_not_call_noise_a_difference(kevolve: Kevolve, done: Path) -> None:
    said = kevolve("compare", str(done), str(done))
    assert "no difference: the 95 % intervals (measured) overlap" in said.out


def test_compare_names_the_better_run(kevolve: Kevolve, done: Path) -> None:
    kevolve("evolve", "spec.yaml", *TOY, "--budget", "200c", "--out", "longer")
    said = kevolve("compare", str(done), "longer")
    assert "longer is better: the 95 % intervals (measured) do not overlap" in said.out


def test_compare_refuses_different_specifications(kevolve: Kevolve, done: Path) -> None:
    text = Path("spec.yaml").read_text()
    Path("other.yaml").write_text(text.replace("[8, 8]", "[8, 9]"))
    kevolve("evolve", "other.yaml", *TOY, "--budget", "25c", "--out", "other")
    assert "not comparable: the specifications differ" in kevolve("compare", str(done), "other").out


def test_resume_of_a_finished_run_prints_its_result(kevolve: Kevolve, done: Path) -> None:
    said = kevolve("resume", str(done))
    assert said.code == 0
    assert "measured over torch.compile" in said.out


@pytest.mark.parametrize(("verdict", "code"), [("", 0), ("timeout", 1)])
def test_evaluate_tells_by_its_exit_code(
    kevolve: Kevolve, monkeypatch: pytest.MonkeyPatch, verdict: str, code: int
) -> None:
    monkeypatch.setenv("TOY_VERDICT", verdict)
    Path("mine.py").write_text("def add_one(x):\n    return x\n")
    said = kevolve("evaluate", "spec.yaml", "mine.py", "--executor", "toy")
    assert said.code == code
    assert ("accepted" if code == 0 else "timeout in stage 'cases'") in said.out


def test_spec_check_lists_cases_and_runs_the_reference(kevolve: Kevolve) -> None:
    said = kevolve("spec", "check", "spec.yaml", "--executor", "toy")
    assert said.code == 0
    assert "x: float32[8, 8]" in said.out
    assert "trivial answers are refused" in said.out


def test_spec_init_writes_a_spec_that_loads(kevolve: Kevolve) -> None:
    pytest.importorskip("torch")
    Path("ops_for_init.py").write_text(
        "import torch\n\n\ndef triple(x):\n    return x * 3\n\n\n"
        "def example_inputs():\n    return (torch.ones(4, 5),)\n"
    )
    assert kevolve("spec", "init", "ops_for_init:triple", "-o", "triple.yaml").code == 0
    said = kevolve("spec", "check", "triple.yaml", "--static")
    assert "float32[4, 5]" in said.out


def test_spec_init_does_not_overwrite(kevolve: Kevolve) -> None:
    Path("ops_again.py").write_text(
        "import torch\n\n\ndef triple(x):\n    return x * 3\n\n\n"
        "def example_inputs():\n    return (torch.ones(4, 5),)\n"
    )
    said = kevolve("spec", "init", "ops_again:triple", "-o", "spec.yaml")
    assert said.code == 2
    assert "exists already" in said.err


def test_plugins_list_says_what_is_ready_and_why_others_are_not(kevolve: Kevolve) -> None:
    said = kevolve("plugins", "list")
    assert "toy              ready" in said.out
    assert "devices  Toy 9000 (toy:0)" in said.out


def test_plugins_list_as_json(kevolve: Kevolve) -> None:
    states = {s["name"]: s["state"] for s in json.loads(kevolve("plugins", "list", "--json").out)}
    assert states["toy"] == "ready"


def test_doctor_prints_versions_and_devices(kevolve: Kevolve) -> None:
    said = kevolve("doctor")
    assert said.code == 0
    assert "torch" in said.out
    assert "architecture" in said.out
