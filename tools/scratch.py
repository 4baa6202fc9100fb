"""A copy of the checkout to build in, for the tools that build the kernels otherwise."""

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BUILD = """
import sys
import setuptools  # whose distutils is the only one since Python 3.12
from distutils.core import run_setup

end = sys.argv.index("--")
names, options = sys.argv[1:end], sys.argv[end + 1 :]
distribution = run_setup("setup.py", ["build_ext", "--inplace", *options], stop_after="commandline")
distribution.ext_modules = [e for e in distribution.ext_modules if not names or e.name.rpartition(".")[2] in names]
distribution.run_commands()
"""


def build_command(names, *options):
    """Return the command that builds some extensions in a copy, where it is to be run.

    Parameters
    ----------
    names : iterable of str
        Such as ``rows``; without any, all.
    *options : str
        Of ``build_ext``.
    """
    return [sys.executable, "-c", BUILD, *names, "--", *options]


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
