"""Configuration: what is refused, and the way to TOML and back."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slide.config import (
    CANDIDATES,
    FAULTS,
    MONITORS,
    SCHEDULES,
    ConfigError,
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)
from slide.config.dicts import from_dict, to_dict

CLASSES = (
    HiddenConfig,
    LSHConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    RehashConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)

# Class, field, values that are refused, and what the message asks for.
REFUSALS = [
    (LSHConfig, "family", ["two words", "", None, 3], "a name of letters, digits, hyphens and underscores"),
    (LSHConfig, "k", [0, 33, 1.0, True, "4"], "an integer from 1 to 32 or left out"),
    (LSHConfig, "l", [0, 1025, None, 2.5], "an integer from 1 to 1024"),
    (LSHConfig, "projection", ["dense", None], "one of 'hadamard', 'sparse'"),
    (LSHConfig, "bin_size", [1, 257, None], "an integer from 2 to 256"),
    (LSHConfig, "code_bits", [0, 9, "2"], "an integer from 1 to 8 or left out"),
    (LSHConfig, "top", [0, 2**31, 1.5], "an integer from 1 to 2147483647 or left out"),
    (LSHConfig, "bucket_bits", [0, 31, 1.5], "an integer from 1 to 30 or left out"),
    (LSHConfig, "capacity", [0, 2**31, 2.0], "an integer from 1 to 2147483647 or left out"),
    (LSHConfig, "insertion", ["lifo", None], "one of 'fifo', 'reservoir'"),
    (SamplingConfig, "policy", ["two words", "", None, 3], "a name of letters, digits, hyphens and underscores"),
    (SamplingConfig, "min_tables", [0, 1025, None], "an integer from 1 to 1024"),
    (SamplingConfig, "fill", ["random", None], "one of 'none', 'uniform'"),
    (RehashConfig, "schedule", ["never", None], "one of 'exponential', 'fixed', 'drift'"),
    (RehashConfig, "period", [0, 10**9 + 1, 1.5, False], "an integer from 1 to 1000000000"),
    (RehashConfig, "decay", [-0.1, 10.5, float("nan"), "0", None, True], "a number from 0 to 10"),
    (RehashConfig, "drift", [-0.1, 1.1, float("nan"), None, False], "a number from 0 to 1"),
    (RehashConfig, "renew", [0, 10**9 + 1, 2.0], "an integer from 1 to 1000000000 or left out"),
    (HiddenConfig, "units", [0, 2**16 + 1, 128.0], "an integer from 1 to 65536"),
    (HiddenConfig, "activation", ["tanh", None], "one of 'relu', 'linear'"),
    (HiddenConfig, "candidates", ["lsh+tail", None], "one of 'full', 'lsh'"),
    (HiddenConfig, "budget", [0, 2**16 + 1, None], "an integer from 1 to 65536"),
    (HiddenConfig, "lsh", [None, {}, RehashConfig()], "a LSHConfig"),
    (HiddenConfig, "rehash", [None, {}, LSHConfig()], "a RehashConfig"),
    (HiddenConfig, "sampling", [None, {}, LSHConfig()], "a SamplingConfig"),
    (HiddenConfig, "dropout", [-0.1, 1, 1.0, None, "0.5", False], "a number from 0 to below 1"),
    (OutputConfig, "candidates", ["all", None, []], "one of 'lsh', "),
    (OutputConfig, "correction", ["logQ", True], "one of 'logq', 'none'"),
    (OutputConfig, "budget", [0, 2**24 + 1, None], "an integer from 1 to 16777216"),
    (OutputConfig, "tail", [0, 2**24 + 1, 1e3], "an integer from 1 to 16777216"),
    (OutputConfig, "tail_power", [-0.1, 1.1, None, float("nan")], "a number from 0 to 1"),
    (OutputConfig, "share_labels", [1, None, "no"], "true or false"),
    (OutputConfig, "loss", ["hinge", None], "one of 'softmax', 'bce'"),
    (OutputConfig, "targets", ["all", None], "one of 'mean', 'sum'"),
    (OutputConfig, "label_smoothing", [-0.1, 1, None], "a number from 0 to below 1"),
    (OutputConfig, "label_weights", ["inverse", None, [1.0]], "one of 'none', 'propensity'"),
    (OutputConfig, "lsh", [None, {}, RehashConfig()], "a LSHConfig"),
    (OutputConfig, "rehash", [None, {}, LSHConfig()], "a RehashConfig"),
    (OutputConfig, "sampling", [None, {}, LSHConfig()], "a SamplingConfig"),
    (OutputConfig, "init", ["zero", None], "one of 'random', 'mean'"),
    (OutputConfig, "init_scale", [0, -1, 1001, None], "a number above 0 to 1000"),
    (OptimizerConfig, "name", ["rmsprop", None], "one of 'adam', 'sgd', 'adagrad'"),
    (OptimizerConfig, "lr", [0, -1.0, 1001, float("inf"), float("nan"), "1"], "a number above 0 to 1000"),
    (OptimizerConfig, "beta1", [-0.1, 1, 1.0, None], "a number from 0 to below 1"),
    (OptimizerConfig, "beta2", [-0.1, 1, 1.0, None], "a number from 0 to below 1"),
    (OptimizerConfig, "eps", [0, -1e-8, 1.5, False], "a number above 0 to 1"),
    (OptimizerConfig, "lazy", ["dense", True, None], "one of 'exact', 'decay', 'sparse'"),
    (OptimizerConfig, "weight_decay", [-0.1, 1001, None], "a number from 0 to 1000"),
    (OptimizerConfig, "clip_norm", [0, -1.0, float("inf"), "1"], "a number above 0 to 1e+30 or left out"),
    (NetworkConfig, "hidden", [None, 128, (), [OutputConfig()]], "a HiddenConfig or a sequence of one or more"),
    (NetworkConfig, "output", [None, "lsh"], "a OutputConfig"),
    (NetworkConfig, "precision", ["fp16", "bfloat16", 16, None], "one of 'fp32', 'bf16-moments', 'bf16'"),
    (NetworkConfig, "optimizer", [None, "adam"], "a OptimizerConfig"),
    (NetworkConfig, "normalize", [0, 1, None, "yes"], "true or false"),
    (NetworkConfig, "feature_weights", ["tfidf", None, True], "one of 'none', 'idf'"),
    (NetworkConfig, "input_dropout", [-0.1, 1, 1.0, None], "a number from 0 to below 1"),
    (NetworkConfig, "seed", [-1, 2**63, 1.0, True, None], "an integer from 0 to 9223372036854775807"),
    (NetworkConfig, "hugepages", [0, None, "on"], "one of 'auto', 'off'"),
    (NetworkConfig, "update", ["locked", None, True], "one of 'grouped', 'hogwild'"),
    (TrainingConfig, "epochs", [0, 10**6 + 1, 1.0], "an integer from 1 to 1000000"),
    (TrainingConfig, "batch_size", [0, 2**20 + 1, None], "an integer from 1 to 1048576"),
    (TrainingConfig, "max_batches", [0, 2**31, 1.0], "an integer from 1 to 2147483647 or left out"),
    (TrainingConfig, "shuffle", [1, None], "true or false"),
    (TrainingConfig, "shuffle_window", [0, -1, 2.5, True], "an integer from 1 to 4611686018427387904 or left out"),
    (TrainingConfig, "schedule", ["sine", None], "one of 'linear', 'cosine', 'step', 'inverse_sqrt', 'const"),
    (TrainingConfig, "warmup", [-0.1, 2e9, float("nan"), "10%", None, True], "a number from 0 to 1e+09"),
    (TrainingConfig, "final_lr", [-0.1, 1.1, float("nan"), None], "a number from 0 to 1"),
    (TrainingConfig, "step_every", [0, 10**6 + 1, 1.5], "an integer from 1 to 1000000"),
    (TrainingConfig, "step_factor", [0, 1.1, None], "a number above 0 to 1"),
    (TrainingConfig, "decay_batches", [0, 2**31, 1.5, None], "an integer from 1 to 2147483647"),
    (TrainingConfig, "eval_points", [-1, 2**31, None], "an integer from 0 to 2147483647"),
    (TrainingConfig, "eval_every", [0, 10**6 + 1, 1.0, None], "an integer from 1 to 1000000"),
    (TrainingConfig, "holdout", [-0.1, 1, 1.0, float("nan"), None, True], "a number from 0 to below 1"),
    (TrainingConfig, "patience", [0, 10**6 + 1, 1.0, True], "an integer from 1 to 1000000 or left out"),
    (TrainingConfig, "monitor", ["P@2", "accuracy", "loss", None], "one of 'P@1', 'P@3', "),
    (TrainingConfig, "min_delta", [-0.1, 1.1, float("nan"), None], "a number from 0 to 1"),
    (TrainingConfig, "keep_best", [0, 1, "yes"], "true or false or left out"),
    (TrainingConfig, "on_fault", ["ignore", None, True], "one of 'stop', 'skip'"),
    (RunConfig, "network", [None, {}], "a NetworkConfig"),
    (RunConfig, "training", [None, {}], "a TrainingConfig"),
]


@pytest.mark.parametrize(
    ("kind", "name", "values", "expected"), REFUSALS, ids=lambda part: getattr(part, "__name__", None)
)
def test_wrong_values_are_refused_by_name_and_range(kind, name, values, expected):
    for value in values:
        with pytest.raises(ConfigError) as refusal:
            kind(**{name: value})
        assert str(refusal.value).startswith(f"{kind.__name__}.{name} must be {expected}")
        assert str(refusal.value).endswith(f", got {value!r}")


def test_weight_decay_leaves_something_of_the_weights():
    OptimizerConfig(lr=0.1, weight_decay=9.0)
    with pytest.raises(ConfigError, match=r"lr times weight_decay must be below 1, got 0\.1 times 10"):
        OptimizerConfig(lr=0.1, weight_decay=10.0)


def test_every_field_is_checked():
    fields = {(kind, field.name) for kind in CLASSES for field in dataclasses.fields(kind)}
    assert fields == {(kind, name) for kind, name, _, _ in REFUSALS}


def test_configurations_are_immutable_values():
    assert NetworkConfig() == NetworkConfig()
    assert hash(NetworkConfig()) == hash(NetworkConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        NetworkConfig().seed = 1


@pytest.mark.parametrize(
    ("candidates", "tables", "search", "labels", "tail"),
    [
        ("lsh", True, False, False, False),
        ("lsh+tail", True, False, True, True),
        ("lsh+inbatch", True, False, True, False),
        ("inbatch", False, False, True, False),
        ("uniform", False, False, True, True),
        ("topk", False, True, False, False),
        ("topk+tail", False, True, True, True),
        ("full", False, False, False, False),
    ],
)
def test_what_candidates_mean(candidates, tables, search, labels, tail):
    output = OutputConfig(candidates=candidates)
    assert (output.uses_tables, output.uses_search) == (tables, search)
    assert (output.uses_labels_of_batch, output.uses_tail) == (labels, tail)


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_labels_are_not_shared_against_the_users_will(candidates):
    if candidates in ("inbatch", "lsh+inbatch"):
        with pytest.raises(ConfigError, match=r"OutputConfig\.share_labels must be true"):
            OutputConfig(candidates=candidates, share_labels=False)
    else:
        output = OutputConfig(candidates=candidates, share_labels=False)
        assert not output.uses_labels_of_batch
        assert output.uses_tail == OutputConfig(candidates=candidates).uses_tail


def maybe(low, high):
    return st.none() | st.integers(low, high)


def below_one():
    return st.floats(0, 1, exclude_max=True)


LSH = st.builds(
    LSHConfig,
    family=st.sampled_from(["simhash", "wta", "dwta", "minhash"]),
    k=maybe(1, 32),
    l=st.integers(1, 1024),
    projection=st.sampled_from(["hadamard", "sparse"]),
    bin_size=st.integers(2, 256),
    code_bits=maybe(1, 8),
    top=maybe(1, 2**31 - 1),
    bucket_bits=maybe(1, 30),
    capacity=maybe(1, 2**31 - 1),
    insertion=st.sampled_from(["fifo", "reservoir"]),
)
REHASH = st.builds(
    RehashConfig,
    schedule=st.sampled_from(["exponential", "fixed", "drift"]),
    period=st.integers(1, 10**9),
    decay=st.floats(0, 10) | st.integers(0, 10),
    drift=st.floats(0, 1),
    renew=maybe(1, 10**9),
)
SAMPLING = st.builds(
    SamplingConfig,
    policy=st.sampled_from(["vanilla", "topk"]),
    min_tables=st.integers(1, 1024),
    fill=st.sampled_from(["none", "uniform"]),
)
HIDDEN = st.builds(
    HiddenConfig,
    units=st.integers(1, 2**16),
    activation=st.sampled_from(["relu", "linear"]),
    candidates=st.sampled_from(["full", "lsh"]),
    budget=st.integers(1, 2**16),
    lsh=LSH,
    rehash=REHASH,
    sampling=SAMPLING,
    dropout=below_one(),
)
RUNS = st.builds(
    RunConfig,
    network=st.builds(
        NetworkConfig,
        hidden=HIDDEN | st.lists(HIDDEN, min_size=1, max_size=3),
        output=st.builds(
            OutputConfig,
            candidates=st.sampled_from(CANDIDATES),
            correction=st.sampled_from(["logq", "none"]),
            budget=st.integers(1, 2**24),
            tail=st.integers(1, 2**24),
            tail_power=st.floats(0, 1),
            loss=st.sampled_from(["softmax", "bce"]),
            targets=st.sampled_from(["mean", "sum"]),
            label_smoothing=below_one(),
            label_weights=st.sampled_from(["none", "propensity"]),
            lsh=LSH,
            rehash=REHASH,
            sampling=SAMPLING,
            init=st.sampled_from(["random", "mean"]),
            init_scale=st.floats(0, 1e3, exclude_min=True),
        ),
        optimizer=st.builds(
            OptimizerConfig,
            name=st.sampled_from(["adam", "sgd", "adagrad"]),
            lr=st.floats(0, 1e3, exclude_min=True) | st.integers(1, 1000),
            lazy=st.sampled_from(["exact", "decay", "sparse"]),
            weight_decay=st.floats(0, 5e-4),
            clip_norm=st.none() | st.floats(0, 1e30, exclude_min=True),
            beta1=below_one(),
            beta2=below_one(),
            eps=st.floats(0, 1, exclude_min=True),
        ),
        normalize=st.booleans(),
        feature_weights=st.sampled_from(["none", "idf"]),
        input_dropout=below_one(),
        seed=st.integers(0, 2**63 - 1),
        hugepages=st.sampled_from([True, False, "auto", "off", "require", "hugetlb"]),
    ),
    training=st.builds(
        TrainingConfig,
        epochs=st.integers(1, 10**6),
        batch_size=st.integers(1, 2**20),
        max_batches=maybe(1, 2**31 - 1),
        shuffle=st.booleans(),
        schedule=st.sampled_from(SCHEDULES),
        warmup=below_one() | st.integers(0, 10**9),
        final_lr=st.floats(0, 1),
        step_every=st.integers(1, 10**6),
        step_factor=st.floats(0, 1, exclude_min=True),
        decay_batches=st.integers(1, 2**31 - 1),
        eval_points=st.integers(1, 2**31 - 1),
        eval_every=st.integers(1, 10**6),
        holdout=below_one(),
        patience=maybe(1, 10**6),
        monitor=st.sampled_from(MONITORS),
        min_delta=st.floats(0, 1),
        keep_best=st.none() | st.booleans(),
        on_fault=st.sampled_from(FAULTS),
    ),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(run=RUNS)
def test_toml_round_trip(tmp_path_factory, run):
    path = tmp_path_factory.getbasetemp() / "run.toml"
    run.to_toml(path)
    assert RunConfig.from_toml(path) == run


@settings(max_examples=30, deadline=None, derandomize=True)
@given(run=RUNS)
def test_dictionary_round_trip(run):
    assert from_dict(RunConfig, to_dict(run)) == run


@pytest.fixture
def toml(tmp_path):
    """Write a file and read it as a configuration."""

    def toml(text):
        path = tmp_path / "run.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return RunConfig.from_toml(path)

    return toml


def test_what_a_file_leaves_out_keeps_its_default(toml):
    assert toml("") == RunConfig()
    run = toml("[network.output.lsh]\nl = 7\n[training]\nepochs = 2\n")
    assert run == RunConfig(
        NetworkConfig(output=OutputConfig(lsh=LSHConfig(l=7))),
        TrainingConfig(epochs=2),
    )


def test_hidden_layers_from_a_file(toml):
    run = toml("[[network.hidden]]\nunits = 9\n[[network.hidden]]\ncandidates = 'lsh'\nsampling = {policy = 'topk'}\n")
    above = HiddenConfig(candidates="lsh", sampling=SamplingConfig("topk", fill="uniform"))
    assert run.network.hidden == (HiddenConfig(9), above)


def test_one_hidden_layer_needs_no_sequence():
    assert NetworkConfig(HiddenConfig(9)) == NetworkConfig([HiddenConfig(9)]) == NetworkConfig((HiddenConfig(9),))


@pytest.mark.parametrize("kind", [HiddenConfig, OutputConfig])
def test_threshold_cannot_exceed_the_tables(kind):
    sampling = SamplingConfig("threshold", min_tables=5)
    assert kind(lsh=LSHConfig(l=5), sampling=sampling).sampling.min_tables == 5
    with pytest.raises(ConfigError, match="min_tables must be at most the number of tables, 4, got 5"):
        kind(lsh=LSHConfig(l=4), sampling=sampling)


def test_warmup_is_a_share_or_a_whole_number_of_batches():
    assert TrainingConfig(warmup=100.0).warmup == 100
    for warmup in (1.5, 99.9):
        with pytest.raises(ConfigError, match="a share of the batches below 1, or from 1 on a whole number"):
            TrainingConfig(warmup=warmup)


@pytest.mark.parametrize(
    ("fields", "keeps", "needs"),
    [
        ({}, False, False),
        ({"holdout": 0.1}, False, False),
        ({"patience": 3}, True, True),
        ({"keep_best": True}, True, True),
        ({"patience": 3, "keep_best": False}, False, True),
    ],
)
def test_what_depends_on_measured_quality(fields, keeps, needs):
    config = TrainingConfig(**fields)
    assert (config.keeps_best, config.needs_validation) == (keeps, needs)


@pytest.mark.parametrize("fields", [{"holdout": 0.1}, {"patience": 3}, {"keep_best": True}])
def test_quality_that_is_needed_must_be_measured(fields):
    with pytest.raises(ConfigError, match="eval_points must be 1 or more with holdout, patience or keep_best"):
        TrainingConfig(eval_points=0, **fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network\n", "run.toml: Expected"),
        (b"\xff = 1", "run.toml: .*utf-8"),
        ("learning_rate = 1", "unknown setting 'learning_rate'; the file may have: network, training"),
        (
            "[network.optimizer]\nrate = 1",
            "unknown setting 'network.optimizer.rate'; network.optimizer may have: name, lr, beta1",
        ),
        ("network = 1", r"\[network\] must be a section, got 1"),
        ("[network.output]\nlsh = []", r"\[network.output.lsh\] must be a section, got \[\]"),
        (
            "[network.optimizer]\nlr = 0",
            r"\[network.optimizer\] OptimizerConfig.lr must be a number above 0 to 1000, got 0",
        ),
        (
            "[[network.hidden]]\n[[network.hidden]]\nunits = 0",
            r"\[network.hidden\[1\]\] HiddenConfig.units must be an integer from 1 to 65536, got 0",
        ),
        ("[[network.hidden]]\nwidth = 8", r"unknown setting 'network.hidden\[0\].width'; .* may have: units, "),
        ("[network.hidden]\nunits = 8", r"\[\[network.hidden\]\] must be a list of sections, got {'units': 8}"),
        ("[network]\nhidden = [3]", r"\[network.hidden\[0\]\] must be a section, got 3"),
        ("[network]\nhidden = []", r"NetworkConfig.hidden must be a HiddenConfig or a sequence of one or more"),
        ("[training]\nepochs = true", r"run.toml: .*TrainingConfig.epochs must be"),
    ],
)
def test_bad_files_are_refused_by_name(toml, text, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        toml(text)
    assert "run.toml: " in str(refusal.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        RunConfig.from_toml(tmp_path / "none.toml")


def test_whole_configuration_must_be_a_dictionary():
    with pytest.raises(ConfigError, match="must be a section, got 3"):
        from_dict(RunConfig, 3)
