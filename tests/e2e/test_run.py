"""A whole run, and everything that can be asked of it afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Done, kevolve

pytestmark = pytest.mark.slow
Finished = tuple[Path, Done, Path]

_ALONE = """
import sys
import torch
sys.path.insert(0, {folder!r})
import kernel
x = torch.randn(256, 512)
torch.testing.assert_close(kernel.softmax(x), torch.softmax(x, -1))
assert not any(name.startswith("kevolve") for name in sys.modules)
"""


def test_a_run_says_what_it_does_while_it_prepares(finished: Finished) -> None:
    _, done, _ = finished
    assert "budget 4 candidates of search; preparing, racing and confirming come on top" in done.out
    assert "preparing: running the reference on case 'small'" in done.out
    assert "preparing: compiling the baseline torch.compile on case 'small'" in done.out


def test_the_report_has_every_candidate_and_its_evidence(finished: Finished) -> None:
    run, _, _ = finished
    report = json.loads((run / "report.json").read_text())
    assert "measured" in json.dumps(report)
    assert {"kernel.py", "report.md", "progress.png"} <= {path.name for path in run.iterdir()}


def test_the_exported_kernel_needs_nothing_of_kevolve(finished: Finished, tmp_path: Path) -> None:
    run, _, _ = finished
    script = tmp_path / "alone.py"
    script.write_text(_ALONE.format(folder=str(run)))
    done = subprocess.run(
        [sys.executable, "-I", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_evaluation_of_the_run_is_reproduced(finished: Finished) -> None:
    run, _, _ = finished
    done = kevolve("repro", f"{run}:0")
    assert done.code == 0, done.out + done.err
    assert "reproduced: the verdict is the one stored" in done.out


def test_a_finished_run_is_shown_resumed_and_compared_without_a_search(finished: Finished) -> None:
    run, _, _ = finished
    shown, resumed, compared = kevolve("show", run), kevolve("resume", run), kevolve("compare", run, run)
    assert (shown.code, resumed.code, compared.code) == (0, 0, 0)
    assert "finished" in shown.out
    assert "preparing: compiling" not in resumed.out
    assert "softmax" in compared.out


def test_a_second_run_does_not_overwrite_the_first(finished: Finished) -> None:
    run, _, spec = finished
    done = kevolve("evolve", spec, "--backend", "cpu", "--out", run)
    assert done.code == 2
    assert f"kevolve resume {run}" in done.err
