"""Files that others wrote: inputs that fuzzing began with, inputs that once found something, and mutants of both.

``python -m tools.fuzz`` looks for more, for as long as it is let; see docs/trust/fuzzing.md.
"""

import pytest
from fuzz import readers, targets
from fuzz.limits import limited
from fuzz.mutation import mutants
from fuzz.targets import Finding, Target


def inputs(name):
    """The inputs of a target by name of file."""
    folders = [targets.SEEDS / kind / name for kind in ("seeds", "findings")]
    return {str(file): file.read_bytes() for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("target", readers.TARGETS, ids=lambda target: target.name)
def test_inputs_are_read_or_refused_by_name(target):
    found = inputs(target.name)
    assert len(found) >= 2
    outcomes = {name: target.examine(data) for name, data in found.items()}
    assert any(outcomes.values()), "no input is sound"
    assert target.name == "reference" or not all(outcomes.values()), "no input is refused"


@pytest.mark.parametrize("target", readers.TARGETS, ids=lambda target: target.name)
def test_mutants_are_read_or_refused_by_name(target):
    for data in mutants([*inputs(target.name).values()], 300):
        target.examine(data)


class Faulty(Target):
    """A reader that does what its input says."""

    name = "faulty"
    documented = (ValueError,)

    def write(self, data, folder):
        path = folder / "input"
        path.write_bytes(data)
        return path

    def read(self, path, data):
        if data == b"memory":
            bytearray(1 << 30)
        if data == b"other":
            raise KeyError(str(path))
        if data == b"unnamed":
            raise ValueError("something is wrong")
        if data == b"named":
            raise ValueError(f"{path}: something is wrong")


@pytest.mark.parametrize(
    ("data", "key"), [(b"other", "KeyError in"), (b"unnamed", "unnamed ValueError in"), (b"memory", "MemoryError in")]
)
def test_what_is_undocumented_is_found(data, key):
    if data == b"memory" and not limited():
        pytest.skip("this system does not tell how much memory a process has")
    with pytest.raises(Finding, match=key):
        Faulty().examine(data)


def test_what_is_documented_is_no_finding():
    assert not Faulty().examine(b"named")
    assert Faulty().examine(b"")


def test_findings_are_made_shorter():
    from fuzz.engine import minimise

    class Long(Faulty):
        def read(self, path, data):
            assert b"x" not in data or b"y" not in data

    assert minimise(Long(), b"some text with an x and then a y in it") == b"xy"
