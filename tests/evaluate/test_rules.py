"""Static rules: what honest kernels contain must pass them."""

from __future__ import annotations

import pytest

from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.model import Candidate

HONEST = {
    "a parameter named input": "def f(input, weight):\n    return input * weight\n",
    "an attribute named cache": "class ModelNew(torch.nn.Module):\n    def forward(self, x):\n"
    "        self.cache = x\n        return self.cache + 1\n",
    "item assignment": "def f(x):\n    out = torch.empty_like(x)\n    out[0] = x[0]\n    return out\n",
    "buffers": "class ModelNew(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.register_buffer('b', torch.zeros(3))\n",
    "helpers": "import math\nfrom functools import partial\n\ndef f(x):\n    return x * math.pi\n",
    "native": "from kevolve_core.native import load_native\n_lib = load_native('k.cpp', {'f': 'ppl'})\n",
    "functional": "import torch.nn.functional as F\n\ndef f(x):\n    return F.gelu(x)\n",
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_entry_breaks_no_rule(name: str) -> None:
    candidate = Candidate({"kernel.py": "import torch\n" + HONEST[name]}, entry="kernel.py", language="cpp")
    assert check_candidate(candidate) == ()


@pytest.mark.parametrize(
    "text",
    [
        "// opens with open(path), reads the time (clock) and calls system(x): only words\nint f();",
        "float timeline(float time_scale) { return time_scale; }",
        "#include <cmath>\n#include <cstdint>\n#include <immintrin.h>\n#include <omp.h>\n",
        'void f() { _Pragma("omp parallel for") for (int i = 0; i < 4; ++i) {} }',
    ],
)
def test_honest_native_source_breaks_no_rule(text: str) -> None:
    candidate = Candidate({"kernel.py": "", "k.cpp": text}, entry="kernel.py", language="cpp")
    assert check_candidate(candidate) == ()


def test_a_violation_names_file_and_line() -> None:
    candidate = Candidate({"kernel.py": "import torch\nimport os\n"}, entry="kernel.py", language="cpp")
    assert [str(v) for v in check_candidate(candidate)] == [
        "kernel.py:2: imports 'os', which a kernel has no need of"
    ]


def test_an_entry_that_is_not_there_is_a_violation() -> None:
    (violation,) = check_candidate(Candidate({"a.py": ""}, entry="b.py", language="cpp"))
    assert "entry" in violation.reason


def test_a_file_outside_the_candidate_is_a_violation() -> None:
    found = check_candidate(Candidate({"k.py": "", "../up.cpp": ""}, entry="k.py", language="cpp"))
    assert [v.file for v in found] == ["../up.cpp"]
