"""slide.torch where PyTorch is not installed."""

import subprocess
import sys
from pathlib import Path

import slide

PROGRAM = """
import sys
sys.path.append({package!r})
sys.modules["torch"] = None
try:
    import slide.torch
except ImportError as error:
    print(type(error).__name__, error)
import slide.network
"""


def test_it_says_what_is_missing_and_nothing_else_misses_it(tmp_path):
    program = PROGRAM.format(package=str(Path(slide.__file__).parents[1]))
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("MissingExtra slide.torch needs torch, which cannot be imported")
    assert "pip install 'slide-xc[torch]'" in run.stdout
