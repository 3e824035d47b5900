"""What cannot be searched is refused with a reason, before anything is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Done, kevolve, write_spec


def refused(folder: Path, body: str, *options: str, env: dict[str, str] | None = None) -> Done:
    done = kevolve(
        "evolve", write_spec(folder, body), "--backend", "cpu", "--budget", "2c",
        "--out", folder / "run", *options, env=env,
    )  # fmt: skip
    assert done.code == 2
    assert not (folder / "run").exists()
    return done


@pytest.mark.slow
def test_data_dependent_control_flow_names_the_operator_and_the_line(tmp_path: Path) -> None:
    done = refused(tmp_path, "x if x.sum() > 0 else -x")
    assert "depend on the values of its inputs" in done.err
    assert "aten." in done.err
    assert "<reference of softmax>:5" in done.err


@pytest.mark.slow
def test_randomness_that_cannot_be_an_input_names_the_operator_and_the_line(tmp_path: Path) -> None:
    done = refused(tmp_path, "torch.multinomial(torch.softmax(x, -1), 2)")
    assert "draws random numbers with aten.multinomial" in done.err
    assert "line 5" in done.err


@pytest.mark.slow
def test_a_spec_that_zeros_would_pass_is_refused_and_allow_degenerate_is_named(tmp_path: Path) -> None:
    done = refused(tmp_path, "x * 0.0")
    assert "the oracle would accept" in done.err
    assert "zeros" in done.err
    assert "--allow-degenerate" in done.err


def test_a_missing_compiler_is_said_at_once_with_the_package_to_install(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    done = refused(tmp_path, "torch.softmax(x, -1)", env={"PATH": str(empty), "CXX": ""})
    assert "no C++ compiler" in done.err
    assert "g++" in done.err
    assert "preparing: starting" not in done.out
