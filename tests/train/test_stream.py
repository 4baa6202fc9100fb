"""Training on an iterator of blocks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from slide import ConfigError, HiddenConfig, Network, NetworkConfig, OutputConfig, TrainingConfig
from slide.commands.console import logging_to_stderr
from slide.data import DataError, load, make_extreme, save_folder
from slide.runs.display import TrainingDisplay
from slide.runs.history import HistoryFile, read_history

N, FEATURES, LABELS = 700, 120, 50


@pytest.fixture(scope="module")
def data():
    return make_extreme(N, FEATURES, LABELS, seed=2)


def make_network(output=None, **fields):
    return Network(FEATURES, LABELS, NetworkConfig(HiddenConfig(8), output or OutputConfig(), **fields), threads=1)


def cut(data, ends):
    ends = sorted({0, N, *ends})
    return [(data.X[first:last], data.Y[first:last]) for first, last in itertools.pairwise(ends)]


def trained(blocks, output=None, **fields):
    network = make_network(output)
    history = network.fit_stream(blocks, config=TrainingConfig(batch_size=64, **fields))
    return network.copy_weights(), history


def assert_same(one, other):
    assert all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(1, N - 1), max_size=40), st.sampled_from([None, 5, 11]))
def test_cuts_do_not_matter(data, ends, max_batches):
    output = OutputConfig("lsh+tail", tail_power=0.5, loss="bce")
    expected, whole = trained(cut(data, []), output, max_batches=max_batches)
    found, history = trained(iter(cut(data, ends)), output, max_batches=max_batches)
    assert_same(found, expected)
    assert history.batches == whole.batches == (max_batches or 11)
    assert len(history.epochs) == 1 and history.epochs[0].loss == whole.epochs[0].loss


def test_same_as_fit_without_shuffling(data):
    """With the frequencies and the schedule that ``fit`` takes from the data."""
    Y = data.Y.toarray()
    Y[:, 0] = np.arange(N) == 5  # a label of one sample, by which the stream knows how many there are
    network, other = make_network(), make_network()
    network.fit(data.X, Y, config=TrainingConfig(epochs=1, batch_size=64, shuffle=False))
    config = TrainingConfig(batch_size=64, max_batches=11)
    blocks = [(data.X[:100], Y[:100]), (data.X[100:], Y[100:])]
    other.fit_stream(blocks, config=config, label_frequency=Y.sum(axis=0, dtype=float) / N)
    assert_same(other.copy_weights(), network.copy_weights())


def test_learns(data):
    network = make_network()
    rows = np.random.default_rng(0).permutation(np.tile(np.arange(N), 8))
    blocks = ((data.X[part], data.Y[part]) for part in np.array_split(rows, 9))
    network.fit_stream(blocks, config=TrainingConfig(batch_size=32))
    assert network.evaluate(data.X, data.Y)["P@1"] > 0.5


def test_blocks_of_every_kind(data, tmp_path):
    save_folder(tmp_path / "folder", data)
    mapped = load(tmp_path / "folder")
    expected, _ = trained([(data.X, data.Y)])
    empty = (data.X[:0], data.Y[:0])
    for blocks in (
        [(data.X.toarray(), data.Y.toarray())],
        [[data.X.tocsc(), data.Y.tocoo()]],
        [empty, (data.X[:70], data.Y[:70]), empty, (data.X[70:], data.Y[70:]), empty],
        [(mapped.X, mapped.Y)],
    ):
        assert_same(trained(blocks)[0], expected)


def test_a_block_is_in_memory_at_a_time(data):
    """No block is asked for before the batches that the ones before it fill are trained on."""
    asked, seen = [], []

    def blocks():
        for number, block in enumerate(cut(data, range(100, N, 100))):
            asked.append((number, seen[-1] if seen else 0))
            yield block

    config = TrainingConfig(batch_size=64)
    make_network().fit_stream(blocks(), config=config, callbacks=[lambda progress: seen.append(progress.batch)])
    assert asked == [(number, number * 100 // 64) for number in range(7)]
    assert seen == list(range(1, 12))


def test_callback_ends_the_run(data):
    network = make_network()
    seen = []

    def on_batch(progress):
        seen.append((progress.batch, progress.batches, progress.samples, progress.epoch))
        return progress.batch == 3

    history = network.fit_stream(cut(data, []), config=TrainingConfig(batch_size=64), callbacks=[on_batch])
    assert seen == [(1, 0, 64, 1), (2, 0, 128, 1), (3, 0, 192, 1)]
    assert history.stopped and history.batches == 3 == network.step


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (lambda X, Y: (X, Y[1:]), "X has 100 rows and Y has 99"),
        (lambda X, Y: (X[:, 1:], Y), "the block's data has 119 features and 50 labels, the network 120 and 50"),
        (lambda X, Y: (X * np.float32("nan"), Y), "not finite"),
        (lambda X, Y: (X, -Y), "is negative"),
        (lambda X, Y: X, "it is csr_matrix, not a pair of matrices"),
        (lambda X, Y: (X, Y, Y), "it is tuple, not a pair of matrices"),
        (lambda X, Y: (X, None), "must have two dimensions"),
    ],
)
def test_bad_block_is_named_and_costs_nothing(data, block, problem):
    blocks = cut(data, range(100, N, 100))
    network, other = make_network(), make_network()
    config = TrainingConfig(batch_size=64)
    with pytest.raises(DataError, match=rf"block 4 of the stream: .*{problem}.*; the 4 batches before it have been"):
        network.fit_stream([*blocks[:3], block(*blocks[3])], config=config)
    other.fit_stream(blocks[:3], config=TrainingConfig(batch_size=64, max_batches=4, schedule="inverse_sqrt"))
    assert_same(network.copy_weights(), other.copy_weights())
    network.fit_stream(blocks[3:], config=config)
    assert network.step == 4 + 7


def test_faults_of_the_iterator_come_through(data):
    def blocks():
        yield data.X, data.Y
        raise ConnectionError("gone")

    network = make_network()
    with pytest.raises(ConnectionError, match="gone"):
        network.fit_stream(blocks(), config=TrainingConfig(batch_size=64))
    assert network.step == 10


@pytest.mark.parametrize("blocks", [[], [(csr_matrix((0, FEATURES)), csr_matrix((0, LABELS)))]])
def test_nothing_to_learn_from(blocks):
    with pytest.raises(DataError, match="the stream has no samples"):
        make_network().fit_stream(blocks)


@pytest.mark.parametrize(
    ("network", "training", "problem"),
    [
        ({}, {"holdout": 0.1}, "holdout, patience and keep_best"),
        ({}, {"patience": 2}, "holdout, patience and keep_best"),
        ({}, {"schedule": "step"}, 'schedule "step"'),
        ({}, {"warmup": 0.1}, "a warmup that is a share"),
        ({"feature_weights": "idf"}, {}, 'feature_weights "idf"'),
        ({"output": OutputConfig(init="mean")}, {}, 'init "mean"'),
        ({"output": OutputConfig(label_weights="propensity")}, {}, 'label_weights "propensity"'),
    ],
)
def test_what_a_stream_cannot_give_is_refused(data, network, training, problem):
    with pytest.raises(ConfigError, match=f"a stream does not allow {problem}.*: "):
        make_network(**network).fit_stream(cut(data, []), config=TrainingConfig(**training))


def test_what_was_learnt_elsewhere_is_kept(data):
    network = make_network(OutputConfig(init="mean"), feature_weights="idf")
    network.fit(data.X, data.Y, config=TrainingConfig(epochs=1))
    weights = network.feature_weights.copy()
    network.fit_stream(cut(data, [50]))
    assert np.array_equal(network.feature_weights, weights)
    frequency, samples = network.output.label_frequency
    assert samples == pytest.approx(2 * N)
    np.testing.assert_allclose(frequency, data.Y.toarray().mean(axis=0, dtype=float))


def spy_on_factors(monkeypatch):
    """A list that gets the factor of the learning rate of each batch to come."""
    factors = []
    train_batch = Network.train_batch

    def spied(self, batch, *, lr_factor):
        factors.append(lr_factor)
        return train_batch(self, batch, lr_factor=lr_factor)

    monkeypatch.setattr(Network, "train_batch", spied)
    return factors


def test_schedule_goes_over_max_batches(data, monkeypatch):
    factors = spy_on_factors(monkeypatch)
    trained(cut(data, []), max_batches=10)
    assert factors == pytest.approx([1 - i / 10 for i in range(10)])
    factors.clear()
    trained(cut(data, []), max_batches=10, schedule="constant")
    assert factors == [1] * 10


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", "falls"), ("cosine", "falls"), ("inverse_sqrt", "falls"), ("constant", "stays")],
)
def test_schedule_of_a_stream_without_a_known_end(data, monkeypatch, schedule, expected):
    factors = spy_on_factors(monkeypatch)
    trained(cut(data, []), warmup=3, schedule=schedule, decay_batches=2)
    after = [(1 + i / 2) ** -0.5 if expected == "falls" else 1 for i in range(8)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, *after])


@pytest.mark.parametrize("limit", [None, 9])
def test_callbacks_are_told_as_in_fit(data, tmp_path, capsys, limit):
    file = HistoryFile(tmp_path / "history.jsonl")
    config = TrainingConfig(batch_size=64, max_batches=limit)
    with logging_to_stderr():
        history = make_network().fit_stream(cut(data, []), config=config, callbacks=[file, TrainingDisplay()])
    run = read_history(file.path)
    assert (run.header["batches"], run.header["points"]) == (limit or 0, 0)
    assert [line["batch"] for line in run.batches] == list(range(1, history.batches + 1))
    assert [line["loss"] for line in run.epochs] == [history.epochs[0].loss]
    assert (run.end["batch"], run.end["error"]) == (history.batches, None)
    assert "epoch 1," in capsys.readouterr().err


def test_the_end_is_told_of_a_stream_that_breaks(data, tmp_path):
    def blocks():
        yield data.X, data.Y
        raise OSError("the line is dead")

    file = HistoryFile(tmp_path / "history.jsonl")
    with pytest.raises(OSError, match="dead"):
        make_network().fit_stream(blocks(), config=TrainingConfig(batch_size=64), callbacks=[file])
    assert read_history(file.path).end["error"] == "OSError: the line is dead"
