"""Softmax cross-entropy over active sets, against a float64 twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from slide.kernels.softmax import remove_offsets, softmax_cross_entropy

SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 300)


def case(rng, samples, n_shared, most_own, *, most_labels=3, spread=3.0):
    """Random logits in both places, and labels among them."""
    shared = rng.normal(0, spread, (samples, n_shared + 3)).astype(np.float32)
    lengths = rng.integers(0, most_own + 1, samples)
    end = np.cumsum(lengths + 1)
    own = rng.normal(0, spread, int(end[-1]) if samples else 0).astype(np.float32)
    sizes = n_shared + lengths
    labels = [rng.permutation(size)[: rng.integers(0, most_labels + 1)] for size in sizes]
    label_ptr = np.cumsum([0, *map(len, labels)])
    places = np.concatenate([*labels, []]).astype(np.int32)
    return shared, n_shared, own, end - lengths, end, label_ptr, places


def run(shared, n_shared, own, begin, end, label_ptr, places, scale=1.0, threads=1):
    loss, hit = (np.full(len(begin), np.nan, np.float32) for _ in range(2))
    softmax_cross_entropy(shared, n_shared, own, begin, end, label_ptr, places, scale, loss, hit, threads)
    return loss, hit


def twin(shared, n_shared, own, begin, end, label_ptr, places, scale):
    """Loss, hit and gradients of every sample's active set."""
    for s in range(len(begin)):
        logits = np.concatenate([shared[s, :n_shared], own[begin[s] : end[s]]]).astype(np.float64)
        labels = places[label_ptr[s] : label_ptr[s + 1]]
        if len(labels) == 0:
            yield 0.0, 0.0, np.zeros(len(logits))
            continue
        log_probability = log_softmax(logits)
        gradient = np.exp(log_probability)
        gradient[labels] -= 1 / len(labels)
        yield -log_probability[labels].mean(), logits[labels].max() >= logits.max(), scale * gradient


def assert_matches_twin(arguments, scale=0.25, threads=1):
    shared, n_shared, own, begin, end = arguments[:5]
    expected = list(twin(*(np.copy(part) for part in arguments), scale))
    before = shared.copy(), own.copy()
    loss, hit = run(*arguments, scale, threads)
    mine = np.zeros(len(own), bool)
    for s, (expected_loss, expected_hit, gradient) in enumerate(expected):
        actual = np.concatenate([shared[s, :n_shared], own[begin[s] : end[s]]])
        mine[begin[s] : end[s]] = True
        assert loss[s] == pytest.approx(expected_loss, rel=2e-6, abs=2e-6)
        assert hit[s] == expected_hit
        assert (np.abs(actual - gradient) <= 2e-5 * np.abs(gradient) + 1e-7).all()
    assert np.array_equal(shared[:, n_shared:], before[0][:, n_shared:])
    assert np.array_equal(own[~mine], before[1][~mine])


@pytest.mark.parametrize("most_own", SIZES)
@pytest.mark.parametrize("n_shared", SIZES)
def test_twin(rng, n_shared, most_own, threads):
    assert_matches_twin(case(rng, 20, n_shared, most_own), threads=threads)


@pytest.mark.parametrize("level", [-1e4, 1e4, -3e4, 0.0])
def test_twin_of_large_logits(rng, level):
    arguments = case(rng, 20, 50, 60)
    arguments[0][:] += level
    arguments[2][:] += level
    assert_matches_twin(arguments)


def test_twin_of_far_apart_logits(rng):
    assert_matches_twin(case(rng, 20, 50, 60, spread=1e4))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40),
    st.integers(0, 40),
    st.data(),
)
def test_twin_of_any_logits(logits, n_shared, data):
    n_shared = min(n_shared, len(logits))
    labels = data.draw(st.lists(st.integers(0, len(logits) - 1), unique=True, max_size=5))
    logits = np.array(logits, np.float32)
    own = logits[n_shared:].copy()
    shared = logits[None, :n_shared].copy()
    places = np.array(labels, np.int32)
    assert_matches_twin(
        (shared, n_shared, own, np.array([0]), np.array([len(own)]), np.array([0, len(labels)]), places)
    )


def test_gradient_sums_to_nothing(rng):
    arguments = case(rng, 50, 100, 100)
    shared, n_shared, own, begin, end = arguments[:5]
    run(*arguments)
    for s in range(50):
        total = shared[s, :n_shared].sum(dtype=np.float64) + own[begin[s] : end[s]].sum(dtype=np.float64)
        assert abs(total) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 20, 39, 40, 79])
@pytest.mark.parametrize("label", [0, 79])
def test_faults_reach_the_loss(rng, bad, place, label):
    logits = rng.normal(size=80).astype(np.float32)
    logits[place] = bad
    shared, own = logits[None, :40].copy(), logits[40:].copy()
    places = np.array([label], np.int32)
    loss, _ = run(shared, 40, own, np.array([0]), np.array([40]), np.array([0, 1]), places)
    assert np.isnan(loss[0])


def test_samples_without_labels_have_no_gradient(rng):
    arguments = case(rng, 6, 20, 20, most_labels=0)
    loss, hit = run(*arguments)
    shared, n_shared, own, begin, end = arguments[:5]
    assert not loss.any()
    assert not hit.any()
    assert not shared[:, :n_shared].any()
    assert not any(own[first:last].any() for first, last in zip(begin, end, strict=True))


def test_threads_do_not_change_the_result(rng):
    results = []
    arguments = case(rng, 64, 300, 200)
    for threads in (1, 2, 3):
        copies = [np.copy(part) for part in arguments]
        loss, hit = run(copies[0], arguments[1], *copies[2:], 0.1, threads)
        results.append((copies[0], copies[2], loss, hit))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_samples(rng):
    loss, _ = run(*case(rng, 0, 10, 10))
    assert len(loss) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hit": np.zeros(1, np.float32)}, "begin, end and hit must fit 2 samples"),
        ({"begin": np.zeros(1, np.int64)}, "begin, end and hit must fit 2 samples"),
        ({"end": np.zeros(1, np.int64)}, "begin, end and hit must fit 2 samples"),
        ({"label_ptr": np.array([0, 1])}, "label_ptr must rise"),
        ({"label_ptr": np.array([1, 1, 2])}, "label_ptr must rise"),
        ({"label_ptr": np.array([0, 1, 3])}, "label_ptr must rise"),
        ({"label_ptr": np.array([0, 2, 1])}, "label_ptr falls after sample 1"),
        ({"shared": np.zeros((1, 3), np.float32)}, r"shared must be \[2, 3 or more\], got \[1, 3\]"),
        ({"n_shared": 4}, r"shared must be \[2, 4 or more\], got \[2, 3\]"),
        ({"begin": np.array([0, 3])}, r"sample 1's run 3\.\.2 is outside 0\.\.2"),
        ({"begin": np.array([-1, 1])}, r"sample 0's run -1\.\.1"),
        ({"end": np.array([1, 3])}, r"sample 1's run 1\.\.3"),
        (
            {"label_place": np.array([0, 4], np.int32)},
            "sample 1 has a label at place 4 of an active set of 4",
        ),
        ({"label_place": np.array([-1, 0], np.int32)}, "sample 0 has a label at place -1"),
    ],
)
def test_arguments_are_checked(changes, message):
    arguments = {
        "shared": np.zeros((2, 3), np.float32),
        "n_shared": 3,
        "own": np.zeros(2, np.float32),
        "begin": np.array([0, 1]),
        "end": np.array([1, 2]),
        "label_ptr": np.array([0, 1, 2]),
        "label_place": np.zeros(2, np.int32),
        "scale": 1.0,
        "loss": np.zeros(2, np.float32),
        "hit": np.zeros(2, np.float32),
        "num_threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        softmax_cross_entropy(**arguments | changes)


def test_remove_offsets_twin(rng, threads):
    shared = rng.normal(size=(30, 50)).astype(np.float32)
    offsets = rng.normal(size=45).astype(np.float32)
    places = np.concatenate([rng.permutation(45)[:20] for _ in range(30)]).astype(np.int32)
    begin = np.arange(30) * 20
    end = begin + rng.integers(0, 21, 30)
    expected = shared.copy()
    for s in range(30):
        expected[s, places[begin[s] : end[s]]] -= offsets[places[begin[s] : end[s]]]
    remove_offsets(shared, offsets, begin, end, places, threads)
    assert np.array_equal(shared, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": np.array([1])}, "end have 2 entries"),
        ({"shared": np.zeros((1, 3), np.float32)}, r"shared must be \[2, 3\] or larger"),
        ({"shared": np.zeros((2, 2), np.float32)}, r"shared must be \[2, 3\] or larger"),
        ({"begin": np.array([0, 2])}, r"sample 1's run 2\.\.1"),
        ({"end": np.array([1, 3])}, r"sample 1's run 1\.\.3 is outside 0\.\.2"),
        ({"places": np.array([0, 3], np.int32), "end": np.array([1, 2])}, r"places must lie in 0\.\.2"),
        ({"places": np.array([-1, 0], np.int32)}, r"places must lie in 0\.\.2"),
    ],
)
def test_remove_offsets_checks_its_arguments(changes, message):
    arguments = {
        "shared": np.zeros((2, 3), np.float32),
        "offsets": np.zeros(3, np.float32),
        "begin": np.array([0, 1]),
        "end": np.array([1, 1]),
        "places": np.zeros(2, np.int32),
        "num_threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        remove_offsets(**arguments | changes)
