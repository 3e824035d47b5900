"""Write the golden prompts anew, to be reviewed with `git diff`: ``python tests/llm/write_golden.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from test_prompts import CASES, GOLDEN

for name, made in CASES.items():
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"{name}.md").write_text(made())
