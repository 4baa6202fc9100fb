"""The neurons a batch shares: what is drawn, how probable it was, and that estimates made with it are unbiased."""

import numpy as np
import pytest
from scipy.stats import chi2

from slide.config import OutputConfig
from slide.kernels.losses import ActiveSets, logistic_cross_entropy
from slide.model import shared_candidates as shared_module
from slide.model.shared_candidates import SharedCandidates

N = 60


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def sample(candidates="uniform", n_labels=N, seed=3, **fields):
    return SharedCandidates(n_labels, OutputConfig(candidates, **{"tail": 15} | fields), seed)


def zipf(n_labels=N):
    """Frequencies of labels in 200 samples; the last quarter has none."""
    counts = np.maximum(100 / np.arange(1, n_labels + 1), 1).round()
    counts[-n_labels // 4 :] = 0
    return counts / 200


def drawn(shared, iterations):
    """How often each label was among the shared ones."""
    counts = np.zeros(shared.n_labels)
    for iteration in range(iterations):
        counts[shared.ids(np.zeros(0, np.int32), iteration)] += 1
    return counts


@pytest.mark.parametrize("candidates", ["lsh", "topk"])
def test_nothing_is_shared_without_labels_or_tail(candidates):
    shared = sample(candidates)
    assert len(shared.ids(np.arange(5, dtype=np.int32), 0)) == len(shared.log_probability(np.arange(5), 2)) == 0


def test_everyone_is_shared_in_full():
    shared = sample("full")
    assert np.array_equal(shared.ids(np.array([3], np.int32), 0), np.arange(N))
    assert len(shared.log_probability(np.arange(N), 2)) == 0


def test_labels_are_shared_once_and_in_order():
    labels = np.array([7, 3, 3, 50, 7], np.int32)
    assert sample("inbatch").ids(labels, 0).tolist() == [3, 7, 50]
    assert set(sample("uniform", tail=2).ids(labels, 0)) >= {3, 7, 50}
    alone = [sample("uniform", share_labels=share).ids(labels, 0) for share in (True, False)]
    assert np.array_equal(alone[0], np.union1d(alone[1], labels))


@pytest.mark.parametrize("tail_power", [0.0, 0.5])
def test_draws_are_a_function_of_seed_and_iteration(tail_power):
    def ids(seed, iteration):
        shared = sample(seed=seed, tail_power=tail_power)
        shared.set_frequency(zipf(), 200)
        return shared.ids(np.zeros(0, np.int32), iteration).tolist()

    assert ids(3, 5) == ids(3, 5)
    assert len({tuple(ids(seed, iteration)) for seed in (3, 4) for iteration in range(5)}) == 10


@pytest.mark.parametrize("tail_power", [0.0, 0.5, 1.0])
def test_draws_have_the_stated_probability(tail_power):
    """Each label is in as often as log_probability says, those of no training sample too."""
    shared = sample(tail=5, tail_power=tail_power)
    shared.set_frequency(zipf(), 200)
    iterations = 4000
    counts = drawn(shared, iterations)
    p = np.exp(sample_probability(shared))
    # Draws in the same batch exclude one another a little, which makes the statistic smaller than chi-squared.
    statistic = ((counts - iterations * p) ** 2 / (iterations * p * (1 - p))).sum()
    assert statistic < chi2.isf(1e-4, N)
    assert counts.min() > 0
    if tail_power:
        assert p[0] > 1.5 * p[-1]
    else:
        assert np.ptp(p) < 1e-12


def sample_probability(shared):
    """Log-probability of all labels in batches without labels."""
    return shared.log_probability(np.arange(shared.n_labels), 0)


def test_probability_of_draws_by_frequency():
    shared = sample(tail=1, tail_power=1.0, n_labels=4, share_labels=False)
    shared.set_frequency(np.array([0.6, 0.3, 0.1, 0.0]), 10)
    # In samples of ten: 6, 3, 1, and half a one for the label of none.
    assert np.exp(sample_probability(shared)) == pytest.approx(np.array([6, 3, 1, 0.5]) / 10.5)


def test_points_are_told_from_the_rarest_label():
    frequency = np.array([0.5, 0.02, 0.0])
    floors = []
    for samples in (None, 50):
        shared = sample(n_labels=3)
        shared.set_frequency(frequency, samples)
        floors.append(shared.floor)
    assert floors == [0.01, 0.01]
    shared.set_frequency(np.zeros(3))
    assert shared.floor == 0.5


def test_a_label_of_no_training_point_stands_for_few():
    """Without a tail it has the probability that half a training sample gives it, where the batch has it after all."""
    shared = sample("inbatch", n_labels=3)
    shared.set_frequency(np.array([0.5, 0.001, 0.0]), 1000)
    assert np.exp(shared.log_probability(np.arange(3), 1)) == pytest.approx([0.5, 0.001, 0.0005])
    with_tail = sample("uniform", n_labels=3, tail=1)
    with_tail.set_frequency(np.array([0.5, 0.001, 0.0]), 1000)
    assert np.exp(with_tail.log_probability(np.array([2]), 1)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("correction", ["logq", "none"])
def test_what_needs_frequencies(correction):
    shared = sample(correction=correction, tail_power=0.5)
    with pytest.raises(RuntimeError, match="drawing neurons by frequency needs set_label_frequency"):
        shared.ids(np.zeros(0, np.int32), 0)
    if correction == "logq":
        with pytest.raises(RuntimeError, match="the logQ correction needs set_label_frequency"):
            shared.log_probability(np.arange(3), 1)
    else:
        assert len(shared.log_probability(np.arange(3), 1)) == 0


@pytest.mark.parametrize("fields", [{}, {"tail_power": 0.5}, {"correction": "none"}])
def test_corrections_are_those_of_the_probability(monkeypatch, fields):
    """Whether they are looked up or worked out: for the largest batch so far, a larger one, a smaller one."""
    monkeypatch.setattr(shared_module, "BLOCK", 7)
    shared, ids = sample(**fields), np.array([0, 5, 8, N - 1], np.int32)
    for frequency in (zipf(), zipf()[::-1]):
        shared.set_frequency(frequency, 200)
        for n in (3, 4, 4, 2):
            log_q = shared.log_probability(ids, n)
            np.testing.assert_allclose(shared.offsets(ids, n), -log_q, rtol=1e-6)
            np.testing.assert_allclose(shared.weights(ids, n), np.exp(-log_q), rtol=1e-6)
            assert shared.offsets(ids, n).dtype == shared.weights(ids, n).dtype == np.float32


@pytest.mark.parametrize("samples", [0, -1, 0.5])
def test_points_are_checked(samples):
    with pytest.raises(ValueError, match=f"samples must be 1 or more, got {samples}"):
        sample().set_frequency(zipf(), samples)


def test_many_labels():
    """The cumulative sum keeps apart what 670,091 frequencies have, and the last label can be drawn."""
    n_labels = 670_091
    shared = sample(n_labels=n_labels, tail=1024, tail_power=0.5)
    shared.set_frequency(np.full(n_labels, 1 / 490_449), 490_449)
    ids = np.concatenate([shared.ids(np.zeros(0, np.int32), iteration).copy() for iteration in range(50)])
    assert 0 <= ids.min() < 0.001 * n_labels
    assert 0.999 * n_labels < ids.max() < n_labels
    assert np.exp(shared.log_probability(ids[:3], 0)) == pytest.approx(1024 / n_labels, rel=1e-2)


def within_errors(draws, truth, errors=4.0):
    """Whether the mean of draws [draws, ...] is that many standard errors from the truth, or closer."""
    error = np.std(draws, axis=0, ddof=1) / np.sqrt(len(draws))
    return (np.abs(np.mean(draws, axis=0) - truth) < errors * error).all()


@pytest.mark.parametrize("tail_power", [0.0, 0.5, 1.0])
def test_estimates_of_the_partition_sum_are_unbiased(rng, tail_power):
    shared = sample(tail_power=tail_power)
    shared.set_frequency(zipf(), 200)
    exponentials = np.exp(rng.normal(size=N))
    sums = []
    for iteration in range(2000):
        ids = shared.ids(np.zeros(0, np.int32), iteration)
        sums.append((exponentials[ids] / np.exp(shared.log_probability(ids, 0))).sum())
    assert np.std(sums) < exponentials.sum()
    assert within_errors(sums, exponentials.sum())


@pytest.mark.parametrize("tail_power", [0.0, 0.5, 1.0])
def test_estimates_of_the_logistic_loss_and_its_gradient_are_unbiased(rng, tail_power):
    """One sample with two labels and two neurons it found itself; all others come from the shared draws."""
    shared = sample(tail_power=tail_power, share_labels=False)
    shared.set_frequency(zipf(), 200)
    logits = rng.normal(-1, 2, N).astype(np.float32)
    labels, found = np.array([0, 50]), np.array([2, 30])
    own = np.concatenate([labels, found]).astype(np.int32)
    losses, gradients = [], []
    for iteration in range(2000):
        ids = shared.ids(labels.astype(np.int32), iteration)
        weight = np.exp(-shared.log_probability(ids, 1)).astype(np.float32)
        certain = np.flatnonzero(np.isin(ids, own)).astype(np.int32)
        mine = own[~np.isin(own, ids)]
        # A place per label: among the shared ones, or in the sample's own run, whose head they are.
        places = [np.searchsorted(ids, j) if j in ids else len(ids) + list(mine).index(j) for j in labels]
        common, rest = logits[None, ids].copy(), logits[mine].copy()
        loss, hit = np.empty(1, np.float32), np.empty(1, np.float32)
        sets = ActiveSets(
            common,
            len(ids),
            rest,
            np.array([0]),
            np.array([len(mine)]),
            np.array([0, 2]),
            np.array(places, np.int32),
            np.ones(2, np.float32),
            weight=weight,
            certain=(certain, np.array([0]), np.array([len(certain)])),
        )
        logistic_cross_entropy(sets, 1.0, loss, hit, 1)
        gradient = np.zeros(N)
        gradient[ids] = common[0]
        gradient[mine] = rest
        losses.append(loss[0])
        gradients.append(gradient)
    exact = logits.astype(np.float64)
    is_label = np.isin(np.arange(N), labels)
    truth = np.logaddexp(0, np.where(is_label, -exact, exact)).sum()
    assert within_errors(losses, truth, 3.5)
    drawn_ones = ~np.isin(np.arange(N), own)
    gradients = np.array(gradients)
    expected = 1 / (1 + np.exp(-exact)) - is_label
    assert within_errors(gradients[:, drawn_ones], expected[drawn_ones], 4.0)
    np.testing.assert_allclose(gradients[0, own], expected[own], rtol=1e-5)
    assert np.ptp(gradients[:, own], axis=0) == pytest.approx(0, abs=1e-7)
