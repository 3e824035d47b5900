"""Exported modules that draw the weights of their reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kevolve_core.bundle import with_reference_weights
from kevolve_core.errors import KevolveError

REFERENCE = '''import torch
import torch.nn as nn

WIDTH = 4  # a "quoted" \\n comment


class Model(nn.Module):
    """A layer and a buffer."""

    def __init__(self, width, gain=1.0):
        super(Model, self).__init__()
        self.layer = nn.Linear(width, WIDTH)
        self.register_buffer("offset", gain * torch.randn(WIDTH))

    def forward(self, x):
        return self.layer(x) + self.offset
'''

EXPORT = """import torch


class ModelNew(torch.nn.Module):
    def __init__(self, *arguments, **options):
        super().__init__()
        self.layer = torch.nn.Module()
        self.layer.weight = torch.nn.Parameter(torch.zeros(4, 3))
        self.layer.bias = torch.nn.Parameter(torch.zeros(4))
        self.register_buffer("offset", torch.zeros(4))

    def forward(self, x):
        return torch.addmm(self.layer.bias + self.offset, x, self.layer.weight.t())
"""

SAME = """import sys
sys.modules["kevolve_core"] = None
import torch, reference, exported
torch.manual_seed(7)
theirs = reference.Model(3, gain=2.0)
torch.manual_seed(7)
ours = exported.ModelNew(3, gain=2.0)
x = torch.randn(5, 3)
print(torch.allclose(theirs(x), ours(x)), bool(ours.offset.any()))
"""


def test_the_same_seed_gives_the_weights_of_the_reference(tmp_path: Path) -> None:
    (tmp_path / "reference.py").write_text(REFERENCE)
    (tmp_path / "exported.py").write_text(with_reference_weights(EXPORT, REFERENCE))
    done = subprocess.run([sys.executable, "-c", SAME], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("True True", "")


def test_a_reference_without_the_class_is_refused() -> None:
    with pytest.raises(KevolveError, match="does not define the class"):
        with_reference_weights(EXPORT, REFERENCE, "Other")


def test_a_reference_that_is_no_python_is_refused() -> None:
    with pytest.raises(KevolveError, match="not valid Python"):
        with_reference_weights(EXPORT, "class Model(:")
