"""Every mistake in a specification gets an error that names the file, the key and, where it can, the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.errors import SpecError
from kevolve_core.spec import load_seed, load_spec

REFERENCE = """reference:
  python: |
    import torch
    def double(x):
        return x + x
"""
INPUTS = "inputs: {x: {shape: [4, 8]}}\n"


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    load_spec(path)


def good(extra: str = "", inputs: str = INPUTS) -> str:
    return "kevolve: 1\n" + REFERENCE + inputs + extra


# name -> (text of the spec, words that the error must have)
BAD = {
    "empty file": ("", ["mapping", "kevolve: 1"]),
    "a list": ("- 1\n", ["mapping"]),
    "not yaml": ("kevolve: [1\n", ["not valid YAML", "line 2"]),
    "key given twice": ("kevolve: 1\nname: a\nname: b\n", ["'name' is given twice", "line 3"]),
    "no version": (REFERENCE + INPUTS, ["schema version", "kevolve: 1"]),
    "mistyped version key": ("kevolv: 1\n" + REFERENCE, ["rename 'kevolv'"]),
    "later version": ("kevolve: 2\n" + REFERENCE, ["schema version 1"]),
    "unknown key": (good("casez: []\n"), ["unknown key 'casez'", "did you mean 'cases'"]),
    "unknown key far from any": (good("zzzz: 1\n"), ["unknown key 'zzzz'", "known keys"]),
    "unknown key in a case": (
        good("cases: [{name: a, wieght: 2}]\n"),
        ["cases[0].wieght", "did you mean 'weight'"],
    ),
    "unknown key in an input": (
        good(inputs="inputs: {x: {shap: [4]}}\n"),
        ["inputs.x.shap", "did you mean 'shape'"],
    ),
    "unknown key in a listed input": (
        good(inputs="inputs: [{name: x, shape: [4], dtyp: int64}]\n"),
        ["inputs[0].dtyp", "did you mean 'dtype'"],
    ),
    "unknown key in a reference": (
        "kevolve: 1\nreference: {pyhton: 'x'}\n" + INPUTS,
        ["reference.pyhton", "did you mean 'python'"],
    ),
    "unknown option": (good("options: {timeout: 3}\n"), ["options.timeout", "did you mean 'timeout_s'"]),
    "no reference": ("kevolve: 1\n" + INPUTS, ["'reference' is missing"]),
    "wrong type": (good("name: 3\n"), ["expected text", "name"]),
    "wrong type of weight": (
        good("cases: [{name: a, weight: heavy}]\n"),
        ["expected a number", "cases[0].weight"],
    ),
    "unknown dtype": (
        good(inputs="inputs: {x: {shape: [4], dtype: flaot32}}\n"),
        ["inputs.x.dtype", "did you mean 'float32'"],
    ),
    "unknown mode": (good("mode: evaluate\n"), ["mode", "eval"]),
    "unknown distribution": (
        good(inputs="inputs: {x: {shape: [4], distribution: nomral}}\n"),
        ["inputs.x.distribution", "did you mean 'normal'"],
    ),
    "unknown layout": (
        good(inputs="inputs: {x: {shape: [4], layouts: [transpose]}}\n"),
        ["layouts", "did you mean 'transposed'"],
    ),
    "parameter of another distribution": (
        good(inputs="inputs: {x: {shape: [4], distribution: {kind: normal, source: y}}}\n"),
        ["'normal' has no 'source'"],
    ),
    "negative weight": (good("cases: [{name: a, weight: -1}]\n"), ["at least 0", "cases[0].weight"]),
    "no cases": (good("cases: []\n"), ["no case is there to tune on"]),
    "only a holdout case": (good("cases: [{name: a, role: holdout}]\n"), ["no case is there to tune on"]),
    "only weightless cases": (good("cases: [{name: a, weight: 0}]\n"), ["no case is there to tune on"]),
    "two cases of one name": (
        good("cases: [{name: a}, {name: a}]\n"),
        ["two cases are named 'a'", "cases[1]"],
    ),
    "case without a name": (good("cases: [{weight: 1}]\n"), ["'name' is missing", "cases[0]"]),
    "no inputs": ("kevolve: 1\n" + REFERENCE, ["has no inputs", "get_inputs()"]),
    "two inputs of one name": (
        good(inputs="inputs: [{name: x, shape: [4]}, {name: x, shape: [4]}]\n"),
        ["two inputs are named 'x'"],
    ),
    "shape and value": (good(inputs="inputs: {x: {shape: [4], value: 1}}\n"), ["got:   both"]),
    "neither shape nor value": (good(inputs="inputs: {x: {dtype: float32}}\n"), ["got:   neither"]),
    "negative size": (good(inputs="inputs: {x: [4, -8]}\n"), ["at least 0"]),
    "fractional size": (good(inputs="inputs: {x: [4.5]}\n"), ["expected a whole number or text"]),
    "size without a value": (
        good("cases: [{name: a, sizes: {ROWS: 4}}]\n", inputs="inputs: {x: [ROW]}\n"),
        ["the size 'ROW' has no value", "did you mean 'ROWS'"],
    ),
    "size that is no expression": (good(inputs="inputs: {x: ['f(3)']}\n"), ["not a size"]),
    "size that divides by zero": (good(inputs="inputs: {x: ['4 // 0']}\n"), ["divides by zero"]),
    "integers without a distribution": (
        good(inputs="inputs: {x: {shape: [4], dtype: int64}}\n"),
        ["needs a distribution", "kind: integers"],
    ),
    "integers without an end": (
        good(inputs="inputs: {x: {shape: [4], dtype: int64, distribution: integers}}\n"),
        ["needs its upper end"],
    ),
    "empty range": (
        good(
            inputs="inputs: {x: {shape: [4], dtype: int8, distribution: {kind: integers, low: 3, high: 3}}}\n"
        ),
        ["the range is empty", "[3, 3)"],
    ),
    "range beyond the dtype": (
        good(inputs="inputs: {x: {shape: [4], dtype: int8, distribution: {kind: integers, high: 300}}}\n"),
        ["does not fit int8"],
    ),
    "more unique values than the range has": (
        good(
            inputs="inputs: {x: {shape: [4], dtype: int64, distribution: {kind: unique_sorted, high: 3}}}\n"
        ),
        ["4 different integers do not fit"],
    ),
    "normal integers": (
        good(inputs="inputs: {x: {shape: [4], dtype: int64, distribution: normal}}\n"),
        ["draws fractions", "kind: integers"],
    ),
    "offsets of floats": (
        good(inputs="inputs: {x: {shape: [4], distribution: {kind: offsets, high: 3}}}\n"),
        ["draws integers"],
    ),
    "probability above one": (
        good(inputs="inputs: {x: {shape: [4], dtype: bool, distribution: {kind: bernoulli, high: 2}}}\n"),
        ["between 0 and 1"],
    ),
    "choice without a source": (
        good(inputs="inputs: {x: {shape: [4], distribution: choice}}\n"),
        ["needs the input it draws from"],
    ),
    "choice from nowhere": (
        good(inputs="inputs: {tab: [4], x: {shape: [4], distribution: {kind: choice, source: tabl}}}\n"),
        ["no input has this name", "did you mean 'tab'"],
    ),
    "choice in a circle": (
        good(
            inputs="inputs: {a: {shape: [4], distribution: {kind: choice, source: b}},"
            " b: {shape: [4], distribution: {kind: choice, source: a}}}\n"
        ),
        ["in a circle"],
    ),
    "transposed vector": (
        good(inputs="inputs: {x: {shape: [4], layouts: [transposed]}}\n"),
        ["two or more dimensions"],
    ),
    "unknown precision": (good("precision: pariti\n"), ["precision", "did you mean 'parity'"]),
    "relaxed without tolerance": (good("precision: relaxed\n"), ["needs a tolerance"]),
    "parity with tolerance": (good("precision: {policy: parity, rtol: 1e-3}\n"), ["takes no tolerances"]),
    "infinite tolerance": (good("precision: {policy: relaxed, rtol: .inf}\n"), ["finite", "precision.rtol"]),
    "two references": (
        "kevolve: 1\nreference: {python: 'x', file: y.py}\n" + INPUTS,
        ["exactly one way", "python, file"],
    ),
    "reference file missing": (
        "kevolve: 1\nreference: {file: nowhere.py}\n" + INPUTS,
        ["does not exist", "nowhere.py", "reference.file"],
    ),
    "reference module missing": (
        "kevolve: 1\nreference: {module: 'no_such_module_here:fn'}\n" + INPUTS,
        ["module is not found", "no_such_module_here"],
    ),
    "reference of unclear form": ("kevolve: 1\nreference: rmsnorm\n" + INPUTS, ["file or module:symbol"]),
    "reference is not Python": (
        "kevolve: 1\nreference:\n  python: |\n    def f(x):\n        return x +\n" + INPUTS,
        ["does not compile", "reference.python, line 2"],
    ),
    "reference lacks the symbol": (
        "kevolve: 1\nreference: {python: 'def double(x): return x', symbol: doubel}\n" + INPUTS,
        ["does not define this symbol", "did you mean 'double'"],
    ),
    "reference with several functions": (
        'kevolve: 1\nreference: {python: "def f(x): return x\\ndef g(x): return x"}\n' + INPUTS,
        ["not clear which symbol", "f, g"],
    ),
    "constructor arguments of a function": (
        "kevolve: 1\nreference: {python: 'def f(x): return x', init: {n: 3}}\n" + INPUTS,
        ["only a module has constructor arguments"],
    ),
    "init_from is not there": (
        "kevolve: 1\nreference: {python: 'class Model: pass', init_from: get_ini}\n" + INPUTS,
        ["does not define this function", "reference.init_from"],
    ),
    "seed missing": (good("seeds: [kernels/nothing.py]\n"), ["kernel does not exist"]),
    "seed of two forms": (
        good("seeds: [{path: a.py, files: {a.py: ''}}]\n"),
        ["a path or its files", "seeds[0]"],
    ),
    "seed without the symbol": (
        good("seeds: [{files: {a.py: 'def halve(x): return x'}}]\n"),
        ["neither ModelNew nor double"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_specification_says_what_and_where(tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert [w for w in words if w not in message] == [], message


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"bad\.yaml: casez"):
        load(tmp_path, good("casez: []\n"))


def test_the_good_text_of_these_tests_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(good())
    assert load_spec(path).name == "good"


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "rmsnorm.yaml").write_text(good())
    with pytest.raises(SpecError, match=r"did you mean 'rmsnorm\.yaml'"):
        load_spec(tmp_path / "rmsnrom.yaml")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(SpecError, match=r"a \.yaml or a \.py file"):
        load_spec(tmp_path / "a.toml")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a specification is a file"):
        load_spec(tmp_path)


def test_a_python_file_without_get_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Model:\n    pass\n")
    with pytest.raises(SpecError, match=r"defines get_inputs\(\)"):
        load_spec(tmp_path / "a.py")


def test_a_seed_without_a_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text("x = 1\n")
    with pytest.raises(SpecError, match="defines no ModelNew"):
        load_seed(tmp_path / "k.py")
