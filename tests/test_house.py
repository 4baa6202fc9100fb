"""The floor plan: the map names every room, a batch never climbs, and the walk in the guide is the one it takes."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import slide
from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, TrainingConfig
from slide.data import make_extreme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(slide.__file__).parent
FACES = {"__init__", "__main__", "cli", "distributed", "metrics", "network"}
LONGEST = 700
"""Lines of a file: the house says none is much longer than 600."""

TRANSPARENT = {"watched", "renamed"}
"""Functions of decorators, which call what they decorate."""


def wings():
    return sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())


@pytest.fixture(scope="module")
def floors():
    """The floor of every wing and face, counted from below, as the contract has them."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = contract["layers"]
    return {name.strip(): -i for i, layer in enumerate(layers) for name in layer.split("|")}


def test_only_faces_stand_on_top():
    assert {path.stem for path in PACKAGE.glob("*.py")} == FACES


def test_the_contract_has_every_wing(floors):
    assert set(floors) == {wing.name for wing in wings()} | FACES - {"__init__"}


def test_the_map_has_every_wing_and_face():
    for name in [*(f"{wing.name}/" for wing in wings()), "cli", "distributed", "metrics", "network"]:
        assert re.search(rf"^    .*\b{name}", slide.__doc__, re.MULTILINE), name


@pytest.mark.parametrize("wing", [wing for wing in wings() if wing.name not in ("kernels", "commands", "hugepages")])
def test_the_table_of_a_wing_has_every_file(wing):
    text = (wing / "__init__.py").read_text()
    for path in wing.glob("*.py"):
        if path.stem != "__init__":
            assert re.search(rf"`{path.stem}`|^    {path.stem} ", text, re.MULTILINE), path


def test_no_file_is_much_longer_than_the_others():
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]:
        assert len(path.read_text().splitlines()) <= LONGEST, path


def test_the_stub_has_the_names_of_the_package():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(slide.__all__)
    for name in slide.__all__:
        assert getattr(slide, name) is not None


@pytest.fixture(scope="module")
def calls():
    """The calls of one run, as pairs of (caller, called): full names of functions, decorators left out."""
    data = make_extreme(64, 50, 40, seed=1)
    output = OutputConfig("lsh+tail", loss="softmax", budget=10, tail=10, lsh=LSHConfig(k=2, l=4))
    network = Network(50, 40, NetworkConfig(HiddenConfig(16), output), threads=1)
    # What is imported or made at the first call is no part of the walk.
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=1, batch_size=32))
    found = []

    def name(frame):
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("slide.") or frame.f_code.co_name in TRANSPARENT:
            return None
        defined = [
            owner.__name__
            for owner in type(frame.f_locals.get("self")).__mro__
            if getattr(inspect.unwrap(vars(owner).get(frame.f_code.co_name, len)), "__code__", None) is frame.f_code
        ]
        kind = f"{defined[0]}." if defined else ""
        return f"{module.removeprefix('slide.')}.{kind}{frame.f_code.co_name}"

    def follow(frame, event, argument):
        if event == "call" and (called := name(frame)) is not None:
            caller = frame.f_back
            while caller is not None and name(caller) is None:
                caller = caller.f_back
            found.append((name(caller) if caller else None, called))

    sys.setprofile(follow)
    try:
        network.fit(data.X, data.Y, config=TrainingConfig(epochs=1, batch_size=32))
    finally:
        sys.setprofile(None)
    return found


def test_nobody_climbs(calls, floors):
    climbs = {
        (caller, called)
        for caller, called in calls
        if caller is not None and floors[called.partition(".")[0]] > floors[caller.partition(".")[0]]
    }
    assert not climbs


def test_the_walk_of_a_batch_is_the_one_in_the_guide(calls):
    guide = (ROOT / "docs" / "house.md").read_text()
    walk = re.search(r"```text\n(network\.Network\.fit\n.*?)```", guide, re.DOTALL)
    steps = [line.split()[0] for line in walk[1].splitlines()]
    left = iter([called for _, called in calls])
    for step in steps:
        assert any(called == step for called in left), f"{step} is not called after those before it"
