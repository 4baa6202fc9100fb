"""The list of faults that tools/mutation.py seeds: whether it still fits the sources."""

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SOURCES = tomllib.loads((ROOT / "tools" / "mutations.toml").read_text())["source"]

pytestmark = pytest.mark.skipif(not (ROOT / "slide").is_dir(), reason="the sources are not here")


@pytest.mark.parametrize("number", range(len(SOURCES)), ids=[source["file"] for source in SOURCES])
def test_every_fault_has_its_place(number):
    source = SOURCES[number]
    text = (ROOT / source["file"]).read_text()
    for old, new in source["faults"]:
        assert text.count(old) == 1, f"{source['file']} has {text.count(old)} of {old!r}"
        assert old != new
    assert all((ROOT / test).is_file() for test in source["tests"])
    assert all((ROOT / "slide" / "kernels" / f"{name}.pyx").is_file() for name in source["build"])
    assert source["build"] or source["file"].endswith(".py")


def test_no_fault_is_there_twice():
    faults = [(source["file"], *fault) for source in SOURCES for fault in source["faults"]]
    assert len(faults) == len(set(faults)) >= 80
