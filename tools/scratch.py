"""A copy of the checkout to build in, for the tools that build the kernels otherwise."""

import filecmp
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_sources(to):
    """Bring a copy of the checkout, with what is neither committed nor ignored, up to date.

    What has not changed keeps its time, and so need not be built again; what has is younger than anything built.

    Parameters
    ----------
    to : Path
        The copy's folder; made if need be.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {name for name in listed if name and (ROOT / name).is_file()}
    for name in wanted:
        source, target = ROOT / name, to / name
        if not target.exists() or not filecmp.cmp(source, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            shutil.copymode(source, target)
    for path in [*to.glob("slide/**/*.py*"), *to.glob("tests/**/*.py")]:
        if path.is_file() and "__pycache__" not in path.parts and str(path.relative_to(to)) not in wanted:
            path.unlink()
