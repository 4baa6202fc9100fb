"""``slide info --index`` and ``slide tune``."""

import json

import pytest

from slide import HiddenConfig, LSHConfig, Network, NetworkConfig, OutputConfig, RunConfig
from slide.config.dicts import to_dict
from slide.data import make_extreme, save_xc

SIZES = {"n_features": 120, "n_labels": 300}
LSH = LSHConfig(k=4, l=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of 60 samples."""
    file = tmp_path_factory.mktemp("data") / "samples.txt"
    save_xc(file, make_extreme(60, **SIZES, seed=3))
    return file


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of networks: "shallow", "deep" whose second hidden layer is sampled too, "shared" and "dense"."""
    folder = tmp_path_factory.mktemp("models")
    hidden = HiddenConfig(units=32)
    sampled = HiddenConfig(units=64, candidates="lsh", budget=16, lsh=LSH)
    output = OutputConfig(candidates="lsh+tail", lsh=LSH, budget=24)
    for name, config in {
        "shallow": NetworkConfig(hidden=hidden, output=output),
        "deep": NetworkConfig(hidden=(hidden, sampled), output=output),
        "shared": NetworkConfig(hidden=hidden, output=OutputConfig(candidates="inbatch")),
        "dense": NetworkConfig(hidden=hidden, output=OutputConfig(candidates="full")),
    }.items():
        Network(*SIZES.values(), config, threads=1).save(folder / name, moments=name == "deep")
    return folder


@pytest.mark.parametrize(("model", "layers"), [("shallow", ["output"]), ("deep", ["hidden.1", "output"])])
def test_info_diagnoses_every_layer_with_tables(run, models, data, model, layers):
    result = run("info", models / model, "--index", "--data", data, "--json")
    assert result.status == 0
    report = json.loads(result.out)
    assert report["queries"] == f"60 samples of {data}"
    assert list(report["layers"]) == layers
    output = report["layers"]["output"]
    assert (output["neurons"], output["k"], output["l"], output["queries"]) == (300, 4, 5, 60)
    assert output["chosen"]["budget"] == 24
    assert 0 < output["chosen"]["recall"] <= output["found"]["recall"] <= 1


def test_info_without_data_says_that_its_queries_are_random(run, models):
    result = run("info", models / "shallow", "--index", "--top", 3)
    assert result.status == 0
    assert result.out.startswith("Queries: 256 random samples")
    assert "Hash tables of layer output" in result.out
    assert "recall@3" in result.out


def test_info_of_a_network_without_tables(run, models):
    result = run("info", models / "dense", "--index")
    assert result.out.startswith("No layer of this network has hash tables")
    assert f"slide tune {models / 'dense'} DATA" in result.out
    assert json.loads(run("info", models / "dense", "--index", "--json").out)["layers"] == {}


def test_info_needs_a_network_to_look_into(run):
    result = run("info", "--index")
    assert result.status == 2
    assert "slide info MODEL --index" in result.err


@pytest.mark.parametrize(
    ("model", "candidates"), [("dense", "lsh+tail"), ("shared", "lsh+inbatch"), ("shallow", "lsh+tail")]
)
def test_tune_prints_the_frontier_and_a_section_to_paste(run, models, data, tmp_path, model, candidates):
    result = run("tune", models / model, data, "--time", 1, "--recall", 0.2)
    assert result.status == 0
    assert result.out.count("<- chosen") == 1
    (tmp_path / "pasted.toml").write_text(result.out[result.out.index("[network.output]") :])
    output = RunConfig.from_toml(tmp_path / "pasted.toml").network.output
    assert output.candidates == candidates
    assert output.lsh.k is not None


def test_tune_writes_the_section(run, models, data, tmp_path):
    result = run("tune", models / "deep", data, "--layer", "hidden.1", "--time", 0.2, "--toml", "tuned.toml", "--json")
    assert result.status == 0
    report = json.loads(result.out)
    assert report["layer"] == "hidden.1"
    assert report["neurons"] == 64
    assert report["choice"] in report["frontier"]
    first, second = RunConfig.from_toml(tmp_path / "tuned.toml").network.hidden
    assert first == HiddenConfig(units=32)
    assert (second.units, second.candidates) == (64, "lsh")
    tuned = to_dict(second)
    assert {name: tuned[name] for name in report["settings"]} == report["settings"]


@pytest.mark.parametrize(
    ("layer", "said"), [("hidden.0", "no use for tables"), ("hidden.7", "hidden.0, hidden.1, output")]
)
def test_tune_refuses_other_layers(run, models, data, layer, said):
    result = run("tune", models / "deep", data, "--layer", layer)
    assert (result.status, result.out) == (1, "")
    assert said in result.err


def test_data_must_fit_and_have_points(run, models, tmp_path):
    save_xc(tmp_path / "other.txt", make_extreme(20, 121, 300))
    (tmp_path / "empty.txt").write_text("0 120 300\n")
    for file, said in {"other.txt": "121 features", "empty.txt": "no samples"}.items():
        result = run("tune", models / "shallow", file)
        assert result.status == 1
        assert said in result.err
