"""Networks mixed with neighbours, against a dense twin that scores every label."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random_array
from scipy.special import expit, softmax

from slide import HiddenConfig, Mixture, Neighbours, Network, NetworkConfig, OutputConfig, metrics
from slide.data import DataError, make_extreme
from slide.predict import mixture

N_POINTS, N_FEATURES, N_LABELS, N = 60, 40, 45, 23


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def sparse(rng, shape, density):
    return csr_matrix(random_array(shape, density=density, format="csr", dtype=np.float32, rng=rng))


@pytest.fixture
def neighbours(rng):
    Y = sparse(rng, (N_POINTS, N_LABELS), 0.05)
    return Neighbours(sparse(rng, (N_POINTS, N_FEATURES), 0.1), Y, k=6)


@pytest.fixture
def queries(rng):
    """Queries; the first has no features and so no neighbours."""
    X = sparse(rng, (N, N_FEATURES), 0.2).toarray()
    X[0] = 0
    return csr_matrix(X)


@pytest.fixture(params=["softmax", "bce"])
def network(request, rng):
    network = Network(N_FEATURES, N_LABELS, NetworkConfig(HiddenConfig(16), output=OutputConfig(loss=request.param)))
    state = network.output.state()
    state["weights"][:] = rng.normal(size=state["weights"].shape)
    state["bias"][:] = rng.normal(size=N_LABELS)
    return network


def twin(network, neighbours, queries, share, exclude=None):
    """Every label's score; minus one where it is excluded."""
    ids, logits = network.predict(queries, N_LABELS)
    scores = np.zeros(logits.shape)
    np.put_along_axis(scores, ids, logits.astype(np.float64), axis=1)
    if network.config.output.loss == "bce":
        probabilities = expit(scores)
    else:
        probabilities = softmax(scores, axis=1) * neighbours.labels_per_sample
    mixed = (1 - share) * probabilities + share * neighbours.votes(queries).toarray()
    if exclude is not None:
        mixed[exclude.toarray()[:, :N_LABELS] > 0] = -1
    return mixed


def ranked(scores, k):
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.mark.parametrize("block", [5, 512])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("excluding", [False, True])
def test_the_best_of_all_labels(rng, network, neighbours, queries, monkeypatch, block, share, excluding):
    monkeypatch.setattr(mixture, "BLOCK", block)
    exclude = sparse(rng, (N, N_LABELS + 7), 0.3) if excluding else None
    for k in (1, 4, 10):
        ids, probabilities = Mixture(network, neighbours, share).predict(queries, k, exclude=exclude)
        expected_ids, expected = ranked(twin(network, neighbours, queries, share, exclude), k)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
        assert (ids.dtype, probabilities.dtype) == (np.int32, np.float32)


def test_more_predictions_than_labels(rng, network, neighbours, queries):
    exclude = csr_matrix(np.tile(np.arange(N_LABELS) < 5, (N, 1)))
    ids, probabilities = Mixture(network, neighbours).predict(queries, N_LABELS + 2, exclude=exclude)
    assert np.array_equal(np.sort(ids[:, :-7], axis=1), np.tile(np.arange(5, N_LABELS), (N, 1)))
    assert (ids[:, -7:] == -1).all()
    assert not probabilities[:, -7:].any()


def test_share_0_is_the_network(rng, network, neighbours, queries):
    # Sigmoids this close to 1 are equal, even in double precision.
    network.output.state()["bias"][:] = rng.permutation(N_LABELS) + 50
    exclude = sparse(rng, (N, N_LABELS), 0.3)
    for banned in (None, exclude):
        ids, probabilities = Mixture(network, neighbours, 0).predict(queries, 8, exclude=banned)
        assert np.array_equal(ids, network.predict(queries, 8, exclude=banned)[0])
        scores = twin(network, neighbours, queries, 0)
        np.testing.assert_allclose(probabilities, np.take_along_axis(scores, ids, axis=1), rtol=1e-4)


def test_share_1_is_the_neighbours(rng, network, neighbours, queries):
    exclude = sparse(rng, (N, N_LABELS), 0.3)
    for banned in (None, exclude):
        found = Mixture(network, neighbours, 1).predict(queries, 8, exclude=banned)
        expected = neighbours.predict(queries, 8, exclude=banned)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_without_neighbours_the_network_decides(network, neighbours, queries):
    ids, _ = Mixture(network, neighbours).predict(queries[:1], 9)
    assert np.array_equal(ids, network.predict(queries[:1], 9)[0])


def test_no_points(network, neighbours, queries):
    for share in (0, 0.5, 1):
        ids, probabilities = Mixture(network, neighbours, share).predict(queries[:0], 3)
        assert ids.shape == probabilities.shape == (0, 3)


def test_several_hidden_layers(rng, neighbours, queries):
    network = Network(N_FEATURES, N_LABELS, NetworkConfig((HiddenConfig(16), HiddenConfig(24))))
    ids, _ = Mixture(network, neighbours).predict(queries, 3)
    assert np.array_equal(ids, ranked(twin(network, neighbours, queries, 0.5), 3)[0])


def test_evaluate(rng, network, neighbours, queries):
    Y = sparse(rng, (N, N_LABELS), 0.1)
    both = Mixture(network, neighbours, 0.4)
    expected = metrics.evaluate_topk(both.predict(queries, 3)[0], Y, [1, 3], np.ones(N_LABELS))
    assert both.evaluate(queries, Y, ks=[1, 3], inv_propensity=np.ones(N_LABELS)) == expected
    with pytest.raises(ValueError, match="Y has 44 labels, the network 45"):
        both.evaluate(queries, Y[:, :44])


def test_masked_inputs_are_not_predicted(rng):
    items = sparse(rng, (N, N_LABELS), 0.2)
    both = Mixture(Network(N_LABELS, N_LABELS), Neighbours(items, items))
    assert both.evaluate(items, items, ks=[5])["P@5"] > 0.5
    assert both.evaluate(items, items, ks=[5], mask_inputs=True)["P@5"] == 0


# --- Tuning


def grid(network, neighbours, X, Y, monitor, mask_inputs=False):
    """The quality of every mixture, in the order in which equals are preferred."""
    k = int(monitor.split("@")[1])
    return {
        (share, n, power): Mixture(network, neighbours.replace(k=n, power=power), share).evaluate(
            X, Y, ks=[k], mask_inputs=mask_inputs
        )[monitor]
        for share in mixture.SHARES
        for n in mixture.NEIGHBOURS
        for power in mixture.POWERS
    }


def settings_of(both):
    return both.share, both.neighbours.k, both.neighbours.power


@pytest.mark.parametrize(("monitor", "mask_inputs"), [("P@1", False), ("P@3", True), ("nDCG@5", False), ("R@2", True)])
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_tuned_is_the_best_of_the_grid(monkeypatch, monitor, mask_inputs, loss):
    monkeypatch.setattr(mixture, "NEIGHBOURS", (2, 5, 20))
    monkeypatch.setattr(mixture, "BLOCK", 50)
    train, val = make_extreme(400, 80, 50, test_samples=120, seed=2)
    network = Network(80, 50, NetworkConfig(HiddenConfig(16), output=OutputConfig(loss=loss)), threads=1)
    network.fit(train.X, train.Y)
    neighbours = Neighbours(train.X, train.Y, k=3)
    both = Mixture.tuned(network, neighbours, val.X, val.Y, monitor=monitor, mask_inputs=mask_inputs)
    quality = grid(network, neighbours, val.X, val.Y, monitor, mask_inputs)
    assert quality[settings_of(both)] == pytest.approx(max(quality.values()), rel=1e-9)
    assert (neighbours.k, both.network) == (3, network)


def test_ties_go_to_the_smallest_settings(network, neighbours, queries):
    nothing = csr_matrix((N, N_LABELS), dtype=np.float32)
    assert settings_of(Mixture.tuned(network, neighbours, queries, nothing)) == (0.0, 20, 1.0)


def test_the_neighbours_alone_may_be_best(network, neighbours, queries):
    truth = neighbours.replace(k=20, power=1).predict(queries, 1)[0][:, 0]
    Y = csr_matrix(np.eye(N_LABELS)[truth] * (truth >= 0)[:, np.newaxis])
    both = Mixture.tuned(network, neighbours, queries, Y)
    assert both.evaluate(queries, Y, ks=[1])["P@1"] == pytest.approx((truth >= 0).mean())
    assert both.share > 0


# --- Refusals


def test_parts_must_fit(network, neighbours, rng):
    with pytest.raises(ValueError, match="the network has 40 features, the neighbours 39"):
        Mixture(network, Neighbours(np.ones((2, 39)), np.ones((2, N_LABELS))))
    with pytest.raises(ValueError, match="the network has 45 labels, the neighbours 44"):
        Mixture(network, Neighbours(np.ones((2, N_FEATURES)), np.ones((2, 44))))
    for share in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="share must be a number from 0 to 1"):
            Mixture(network, neighbours, share)
    assert repr(Mixture(network, neighbours)).endswith("k=6, power=2), share=0.5)")


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_predict_refuses(network, neighbours, queries, share):
    both = Mixture(network, neighbours, share)
    with pytest.raises(ValueError, match="X has 39 features"):
        both.predict(queries[:, :39])
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        both.predict(queries, 0)
    with pytest.raises(ValueError, match="exclude has 3 rows for 23 samples"):
        both.predict(queries, exclude=queries[:3])
    with pytest.raises(DataError, match="not finite"):
        both.predict(np.full((1, N_FEATURES), np.nan))


def test_tuned_refuses(network, neighbours, queries):
    Y = csr_matrix((N, N_LABELS), dtype=np.float32)
    for monitor in ("P@0", "PSP@1", "P", "loss"):
        with pytest.raises(ValueError, match="monitor must be P@k, nDCG@k or R@k for some k"):
            Mixture.tuned(network, neighbours, queries, Y, monitor=monitor)
    with pytest.raises(ValueError, match="the network has 40 features, the validation samples 39"):
        Mixture.tuned(network, neighbours, queries[:, :39], Y)
    with pytest.raises(ValueError, match="the network has 45 labels, the validation samples 44"):
        Mixture.tuned(network, neighbours, queries, Y[:, :44])
    with pytest.raises(ValueError, match="there are no validation samples"):
        Mixture.tuned(network, neighbours, queries[:0], Y[:0])
    with pytest.raises(DataError, match="X has 23 rows and Y has 2"):
        Mixture.tuned(network, neighbours, queries, Y[:2])
