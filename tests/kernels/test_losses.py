"""The losses over active sets, against float64 twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, logsumexp

from slide.kernels.losses import ActiveSets, logistic_cross_entropy, remove_offsets, softmax_cross_entropy

SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 300)
LOSSES = {"softmax": softmax_cross_entropy, "logistic": logistic_cross_entropy}

every_loss = pytest.mark.parametrize("name", LOSSES)


def case(rng, samples, n_shared, most_own, *, most_labels=3, spread=3.0, weighted=False):
    """Random logits in both places, and labels among them; weights of the shared ones, if any, and who is certain."""
    lengths = rng.integers(0, most_own + 1, samples)
    end = np.cumsum(lengths + 1)
    sizes = n_shared + lengths
    labels = [rng.permutation(size)[: rng.integers(0, most_labels + 1)] for size in sizes]
    case = {
        "shared": rng.normal(0, spread, (samples, n_shared + 3)).astype(np.float32),
        "n_shared": n_shared,
        "own": rng.normal(0, spread, int(end[-1]) if samples else 0).astype(np.float32),
        "begin": end - lengths,
        "end": end,
        "label_ptr": np.cumsum([0, *map(len, labels)]),
        "label_place": np.concatenate([*labels, []]).astype(np.int32),
        "target": rng.random(sum(map(len, labels))).astype(np.float32),
    }
    if weighted:
        certain = [rng.permutation(n_shared)[: rng.integers(0, n_shared + 1)] for _ in range(samples)]
        ends = np.cumsum([0, *map(len, certain)])
        case["weight"] = (1 / rng.random(n_shared)).astype(np.float32)
        case["certain"] = np.concatenate([*certain, []]).astype(np.int32), ends[:-1], ends[1:]
    return case


def run(name, case, scale=1.0, threads=1, smoothing=0.0):
    loss, hit = (np.full(len(case["begin"]), np.nan, np.float32) for _ in range(2))
    LOSSES[name](ActiveSets(**case, smoothing=smoothing), scale, loss, hit, threads)
    return loss, hit


def softmax_twin(logits, labels, target, weight, smoothing):
    """Loss and gradient of one active set; what is spread by smoothing meets the logits less the logQ correction."""
    spread = smoothing * target.sum() * weight / weight.sum()
    log_total = logsumexp(logits)
    loss = (1 - smoothing) * (target * (log_total - logits[labels])).sum()
    loss += (spread * (log_total - logits + np.log(weight))).sum()
    gradient = np.exp(log_softmax(logits)) * target.sum() - spread
    gradient[labels] -= (1 - smoothing) * target
    return loss, gradient


def logistic_twin(logits, labels, target, weight, smoothing):
    """Loss and gradient of one active set."""
    answer = np.full(len(logits), smoothing / 2)
    answer[labels] = 1 - smoothing / 2
    weight = weight.copy()
    weight[labels] = target
    losses = answer * np.logaddexp(0, -logits) + (1 - answer) * np.logaddexp(0, logits)
    return (weight * losses).sum(), weight * (expit(logits) - answer)


def assert_matches_twin(name, case, scale=0.25, threads=1, smoothing=0.0):
    shared, own, n_shared = case["shared"].copy(), case["own"].copy(), case["n_shared"]
    loss, hit = run(name, case, scale, threads, smoothing)
    mine = np.zeros(len(own), bool)
    for s, (first, last) in enumerate(zip(case["begin"], case["end"], strict=True)):
        mine[first:last] = True
        logits = np.concatenate([shared[s, :n_shared], own[first:last]]).astype(np.float64)
        run_of_labels = slice(*case["label_ptr"][s : s + 2])
        labels, target = case["label_place"][run_of_labels], case["target"][run_of_labels].astype(np.float64)
        weight = np.ones(len(logits))
        if "weight" in case:
            places, begin, end = case["certain"]
            weight[:n_shared] = case["weight"]
            weight[places[begin[s] : end[s]]] = 1
        expected_loss, gradient, expected_hit = 0.0, np.zeros(len(logits)), False
        if len(labels):
            twin = softmax_twin if name == "softmax" else logistic_twin
            expected_loss, gradient = twin(logits, labels, target, weight, smoothing)
            expected_hit = logits[labels].max() >= logits.max()
        actual = np.concatenate([case["shared"][s, :n_shared], case["own"][first:last]])
        assert loss[s] == pytest.approx(expected_loss, rel=4e-6, abs=4e-6)
        assert hit[s] == expected_hit
        bound = 1e-7 * (1 + (weight.max(initial=1) if smoothing else 0))
        assert (np.abs(actual - scale * gradient) <= 2e-5 * scale * np.abs(gradient) + bound).all()
    assert np.array_equal(case["shared"][:, n_shared:], shared[:, n_shared:])
    assert np.array_equal(case["own"][~mine], own[~mine])


@every_loss
@pytest.mark.parametrize("most_own", SIZES)
@pytest.mark.parametrize("n_shared", SIZES)
def test_twin(rng, name, n_shared, most_own, threads):
    assert_matches_twin(name, case(rng, 20, n_shared, most_own), threads=threads)


@every_loss
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("n_shared", SIZES)
def test_twin_of_weights_and_smoothing(rng, name, n_shared, weighted, smoothing, threads):
    arguments = case(rng, 20, n_shared, 17, weighted=weighted)
    assert_matches_twin(name, arguments, threads=threads, smoothing=smoothing)


@every_loss
def test_twin_of_weights_where_nobody_is_certain(rng, name):
    arguments = case(rng, 20, 33, 17, weighted=True)
    nobody = np.zeros(20, np.int64)
    copies = arguments | {"shared": arguments["shared"].copy(), "own": arguments["own"].copy()}
    del copies["certain"]
    found = run(name, copies, smoothing=0.1)
    arguments["certain"] = np.zeros(0, np.int32), nobody, nobody
    assert_matches_twin(name, arguments, scale=1.0, smoothing=0.1)
    assert np.array_equal(copies["shared"], arguments["shared"])
    assert np.array_equal(copies["own"], arguments["own"])
    assert np.isfinite(found).all()


@every_loss
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_twin_of_more_logits_than_a_block_of_the_sum(rng, name, smoothing):
    assert_matches_twin(name, case(rng, 3, 4096 + 17, 2 * 4096 + 1, most_labels=9), smoothing=smoothing)


@every_loss
@pytest.mark.parametrize("level", [-1e4, 1e4, -3e4, 0.0])
def test_twin_of_large_logits(rng, name, level):
    arguments = case(rng, 20, 50, 60)
    arguments["shared"] += level
    arguments["own"] += level
    assert_matches_twin(name, arguments)


@every_loss
def test_twin_of_far_apart_logits(rng, name):
    assert_matches_twin(name, case(rng, 20, 50, 60, spread=1e4))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(LOSSES)),
    st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.25]),
    st.data(),
)
def test_twin_of_any_logits(name, logits, n_shared, smoothing, data):
    n_shared = min(n_shared, len(logits))
    labels = data.draw(st.lists(st.integers(0, len(logits) - 1), unique=True, max_size=5))
    target = data.draw(st.lists(st.floats(0, 4, width=32), min_size=len(labels), max_size=len(labels)))
    weight = data.draw(st.lists(st.floats(1, 1e4, width=32), min_size=n_shared, max_size=n_shared))
    logits = np.array(logits, np.float32)
    arguments = {
        "shared": logits[None, :n_shared].copy(),
        "n_shared": n_shared,
        "own": logits[n_shared:].copy(),
        "begin": np.array([0]),
        "end": np.array([len(logits) - n_shared]),
        "label_ptr": np.array([0, len(labels)]),
        "label_place": np.array(labels, np.int32),
        "target": np.array(target, np.float32),
        "weight": np.array(weight, np.float32),
        "certain": (np.zeros(0, np.int32), np.array([0]), np.array([0])),
    }
    assert_matches_twin(name, arguments, smoothing=smoothing)


def test_unlikely_negatives_keep_their_tiny_losses():
    """Many losses far below a float's distance from 1 must not be lost: softplus(-30) is about 1e-13."""
    shared = np.full((1, 1000), -30, np.float32)
    arguments = {
        "shared": shared,
        "n_shared": 1000,
        "own": np.full(1, 100, np.float32),
        "begin": np.array([0]),
        "end": np.array([1]),
        "label_ptr": np.array([0, 1]),
        "label_place": np.array([1000], np.int32),
        "target": np.ones(1, np.float32),
    }
    loss, _ = run("logistic", arguments)
    assert loss[0] == pytest.approx(1000 * np.exp(-30.0), rel=1e-5)
    assert arguments["shared"][0] == pytest.approx(np.exp(-30.0), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_gradient_sums_to_nothing(rng, smoothing):
    arguments = case(rng, 50, 100, 100)
    run("softmax", arguments, smoothing=smoothing)
    for s in range(50):
        own = arguments["own"][arguments["begin"][s] : arguments["end"][s]]
        assert abs(arguments["shared"][s, :100].sum(dtype=np.float64) + own.sum(dtype=np.float64)) < 1e-6


@every_loss
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 20, 39, 40, 79])
@pytest.mark.parametrize("label", [0, 79])
def test_faults_reach_the_loss(rng, name, bad, place, label, smoothing):
    logits = rng.normal(size=80).astype(np.float32)
    logits[place] = bad
    arguments = {
        "shared": logits[None, :40].copy(),
        "n_shared": 40,
        "own": logits[40:].copy(),
        "begin": np.array([0]),
        "end": np.array([40]),
        "label_ptr": np.array([0, 1]),
        "label_place": np.array([label], np.int32),
        "target": np.ones(1, np.float32),
    }
    loss, _ = run(name, arguments, smoothing=smoothing)
    assert np.isnan(loss[0]) or (name == "logistic" and np.isinf(bad) and not np.isfinite(loss[0]))


@every_loss
def test_samples_without_labels_have_no_gradient(rng, name):
    arguments = case(rng, 6, 20, 20, most_labels=0)
    loss, hit = run(name, arguments)
    assert not loss.any()
    assert not hit.any()
    assert not arguments["shared"][:, :20].any()
    runs = zip(arguments["begin"], arguments["end"], strict=True)
    assert not any(arguments["own"][first:last].any() for first, last in runs)


@every_loss
def test_threads_do_not_change_the_result(rng, name):
    results = []
    arguments = case(rng, 64, 300, 200, weighted=True)
    for threads in (1, 2, 3):
        copies = arguments | {"shared": arguments["shared"].copy(), "own": arguments["own"].copy()}
        loss, hit = run(name, copies, 0.1, threads, smoothing=0.1)
        results.append((copies["shared"], copies["own"], loss, hit))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@every_loss
def test_sets_serve_again_on_more_threads(rng, name):
    """A loss leaves its scratch as it found it, and more threads have more of it."""
    arguments = case(rng, 64, 4096, 200, weighted=True)
    logits, own = arguments["shared"].copy(), arguments["own"].copy()
    sets, results = ActiveSets(**arguments, smoothing=0.1), []
    for threads in (1, 1, 3, 2):
        loss, hit = np.zeros((2, 64), np.float32)
        arguments["shared"][:], arguments["own"][:] = logits, own
        LOSSES[name](sets, 0.1, loss, hit, threads)
        results.append((arguments["shared"].copy(), arguments["own"].copy(), loss, hit))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@every_loss
def test_sets_keep_their_arrays(rng, name):
    arguments = case(rng, 8, 40, 20, weighted=True)
    copies = {key: np.copy(value) for key, value in arguments.items() if isinstance(value, np.ndarray)}
    copies["certain"] = tuple(np.copy(array) for array in arguments["certain"])
    expected = run(name, arguments, smoothing=0.1)
    sets = ActiveSets(**arguments | copies, smoothing=0.1)
    del copies
    # What was free would be given to these.
    noise = [np.full(n, 77, np.int64) for n in range(1, 400)]
    found = np.zeros((2, 8), np.float32)
    LOSSES[name](sets, 1.0, *found, 1)
    assert np.array_equal(found, expected)
    del noise


@every_loss
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_no_samples(rng, name, weighted):
    loss, _ = run(name, case(rng, 0, 10, 10, weighted=weighted), smoothing=0.1)
    assert len(loss) == 0


@every_loss
def test_outputs_are_checked(rng, name):
    sets = ActiveSets(**case(rng, 2, 3, 0))
    for n, m in [(1, 2), (2, 1), (3, 2)]:
        with pytest.raises(ValueError, match=f"loss and hit must have 2 entries each, got {n} and {m}"):
            LOSSES[name](sets, 1.0, np.zeros(n, np.float32), np.zeros(m, np.float32), 1)
    with pytest.raises(TypeError, match="ActiveSets"):
        LOSSES[name](None, 1.0, *np.zeros((2, 2), np.float32), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begin": np.zeros(1, np.int64)}, "begin and end must have an entry for each sample, got 1 and 2"),
        ({"end": np.zeros(1, np.int64)}, "begin and end must have an entry for each sample, got 2 and 1"),
        ({"begin": np.zeros(3, np.int64), "end": np.zeros(3, np.int64)}, "label_ptr must rise"),
        ({"label_ptr": np.array([0, 1])}, "label_ptr must rise"),
        ({"label_ptr": np.array([1, 1, 2])}, "label_ptr must rise"),
        ({"label_ptr": np.array([0, 1, 3])}, "label_ptr must rise"),
        ({"label_ptr": np.array([0, 2, 1])}, "label_ptr falls after sample 1"),
        ({"target": np.ones(3, np.float32)}, "2 label places need as many targets, got 3"),
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
        ({"smoothing": 1.0}, "smoothing must be from 0 to below 1, got 1"),
        ({"smoothing": -0.5}, "smoothing must be from 0 to below 1, got -0.5"),
        ({"weight": np.ones(2, np.float32)}, "weight must be empty or have 3 entries, got 2"),
        ({"weight": np.array([1, 0, 1], np.float32)}, "weights must be positive, got 0.0 at 1"),
        ({"weight": np.array([1, 1, np.nan], np.float32)}, "weights must be positive, got nan at 2"),
        ({"certain": ([0], [0], [1])}, "certain must have the runs of 2 samples"),
        ({"certain": ([0], [0, 1], [1, 2])}, r"sample 1's certain run 1\.\.2 is outside 0\.\.1"),
        ({"certain": ([0, 3], [0, 1], [1, 2])}, "sample 1 has a certain neuron at place 3 of 3"),
        ({"certain": ([-1, 0], [0, 1], [1, 2])}, "sample 0 has a certain neuron at place -1 of 3"),
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
        "target": np.ones(2, np.float32),
        "smoothing": 0.5,
        "weight": np.ones(3, np.float32),
    } | changes
    if "certain" in changes:
        places, *runs = changes["certain"]
        arguments["certain"] = np.array(places, np.int32), *map(np.array, runs)
    with pytest.raises(ValueError, match=message):
        ActiveSets(**arguments)


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
        "threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        remove_offsets(**arguments | changes)
