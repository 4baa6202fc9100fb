"""Ranking metrics, against hand-made cases, a plain Python twin, scikit-learn and pyxclib."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix
from sklearn.metrics import ndcg_score

from slide.metrics import evaluate_topk, ndcg_at_k, precision_at_k, propensities, psp_at_k, recall_at_k

# Sample 0 has labels 0, 1, 3; sample 1 has label 2; sample 2 has none.
Y = csr_matrix([[1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=np.float32)
TOPK = np.array([[1, 2, 0], [-1, 2, 3], [0, 1, 2]])
WEIGHTS = np.array([1.0, 2.0, 4.0, 8.0])


def test_precision_by_hand():
    assert precision_at_k(TOPK, Y, 1) == pytest.approx(1 / 3)
    assert precision_at_k(TOPK, Y, 2) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert precision_at_k(TOPK, Y, 3) == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)


def test_ndcg_by_hand():
    second, third = 1 / math.log2(3), 1 / 2
    assert ndcg_at_k(TOPK, Y, 1) == pytest.approx(1 / 3)
    assert ndcg_at_k(TOPK, Y, 3) == pytest.approx(((1 + third) / (1 + second + third) + second / 1 + 0) / 3)


def test_recall_by_hand():
    assert recall_at_k(TOPK, Y, 1) == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert recall_at_k(TOPK, Y, 3) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_psp_by_hand():
    assert psp_at_k(TOPK, Y, WEIGHTS, 1) == pytest.approx(2 / (8 + 4))
    assert psp_at_k(TOPK, Y, WEIGHTS, 2) == pytest.approx((2 + 4) / (8 + 2 + 4))
    assert psp_at_k(TOPK, Y, WEIGHTS, 3) == pytest.approx((2 + 1 + 4) / (8 + 2 + 1 + 4))


def test_propensities_by_hand():
    expected = 1 + (math.log(3) - 1) * 2.5**0.55 * (np.array([1, 1, 1, 1]) + 1.5) ** -0.55
    np.testing.assert_allclose(propensities(Y), expected)
    rare, frequent = propensities(csr_matrix([[1, 1], [0, 1], [0, 1]]), a=0.5, b=0.4)
    assert rare > frequent > 1
    assert propensities(csr_matrix((3, 2))).shape == (2,)


def test_evaluate_names_every_metric():
    scores = evaluate_topk(TOPK, Y, ks=(1, 3), inv_propensity=WEIGHTS)
    assert scores == {
        f"{name}@{k}": function(TOPK, Y, *extra, k)
        for k in (1, 3)
        for name, function, extra in [
            ("P", precision_at_k, ()),
            ("nDCG", ndcg_at_k, ()),
            ("R", recall_at_k, ()),
            ("PSP", psp_at_k, (WEIGHTS,)),
        ]
    }
    assert not any(name.startswith("PSP") for name in evaluate_topk(TOPK, Y, ks=[2]))


def test_perfect_and_empty_predictions():
    perfect = evaluate_topk([[3, 1, 0], [2, -1, -1]], Y[:2], ks=[1], inv_propensity=WEIGHTS)
    assert perfect["P@1"] == perfect["nDCG@1"] == perfect["PSP@1"] == 1
    nothing = evaluate_topk(np.full((3, 3), -1), Y, inv_propensity=WEIGHTS, ks=[1, 3])
    assert set(nothing.values()) == {0.0}


def test_no_point_has_a_label():
    scores = evaluate_topk([[0, 1]], csr_matrix((1, 4)), ks=[1, 2], inv_propensity=WEIGHTS)
    assert set(scores.values()) == {0.0}


def test_form_of_the_labels_does_not_matter():
    unsorted = csr_array((np.ones(5), np.array([3, 0, 1, 0, 2]), np.array([0, 4, 5, 5])), shape=(3, 4))
    indices = unsorted.indices.copy()
    assert evaluate_topk(TOPK, unsorted, ks=[3]) == evaluate_topk(TOPK, Y, ks=[3])
    np.testing.assert_array_equal(unsorted.indices, indices)
    zeros = csr_matrix((np.array([1.0, 0.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    assert precision_at_k([[1]], zeros, 1) == 0


def test_keys_beyond_32_bits():
    n_labels = 2_000_000_000
    labels = csr_matrix((np.ones(4), np.full(4, n_labels - 1), np.arange(5)), shape=(4, n_labels))
    assert precision_at_k([[n_labels - 1], [n_labels - 2], [-1], [n_labels - 1]], labels, 1) == 0.5


@pytest.mark.parametrize(
    ("topk", "ks", "message"),
    [
        ([[0, 1]], [1], "1 rows and Y has 3"),
        ([0, 1, 2], [1], "2-D"),
        ([[0.5]] * 3, [1], "float64"),
        ([[0, 4]] * 3, [1], r"topk\[0, 1\] is 4"),
        ([[0, -2]] * 3, [1], r"topk\[0, 1\] is -2"),
        ([[0, 1], [2, 2], [0, 1]], [1], "row 1 of topk names label 2 twice"),
        ([[0, 1]] * 3, [3], "between 1 and the 2"),
        ([[0, 1]] * 3, [0], "between 1 and the 2"),
        ([[0, 1]] * 3, [], "at least one"),
    ],
)
def test_bad_predictions_are_refused(topk, ks, message):
    with pytest.raises(ValueError, match=message):
        evaluate_topk(np.array(topk), Y, ks=ks)


def test_bad_labels_and_propensities_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        precision_at_k(np.empty((0, 2), dtype=int), csr_matrix((0, 4)), 1)
    with pytest.raises(ValueError, match="one for each of 4 labels"):
        psp_at_k(TOPK, Y, WEIGHTS[:3], 1)
    for weight in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            psp_at_k(TOPK, Y, np.array([1, 1, 1, weight]), 1)
    with pytest.raises(ValueError, match="at least 3"):
        propensities(Y[:2])
    with pytest.raises(ValueError, match="positive"):
        propensities(Y, b=0.0)


def naive(topk, labels, weights, k):
    """All metrics, one sample after the other."""
    precision = ndcg = recall = won = attainable = 0.0
    for ranked, true in zip(topk, labels, strict=True):
        hits = [label in true for label in ranked[:k]]
        precision += sum(hits) / k
        recall += sum(hits) / len(true) if true else 0
        gain = sum(1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(true))))
        ndcg += gain / ideal if true else 0
        won += sum(weights[label] for label, hit in zip(ranked, hits, strict=False) if hit)
        attainable += sum(sorted((weights[label] for label in true), reverse=True)[:k])
    n = len(topk)
    psp = won / attainable if attainable else 0
    return {f"P@{k}": precision / n, f"nDCG@{k}": ndcg / n, f"R@{k}": recall / n, f"PSP@{k}": psp}


@st.composite
def rankings(draw, n_labels=8, width=5):
    """A few samples: ranked predictions with gaps, sets of true labels, weights of labels."""
    n_samples = draw(st.integers(1, 5))
    ranked = st.permutations(range(n_labels)).map(lambda order: list(order[:width]))
    gaps = st.lists(st.booleans(), min_size=width, max_size=width)
    topk = [
        [-1 if gap else label for label, gap in zip(draw(ranked), draw(gaps), strict=True)]
        for _ in range(n_samples)
    ]
    labels = [draw(st.sets(st.integers(0, n_labels - 1))) for _ in range(n_samples)]
    weights = draw(st.lists(st.floats(1, 100), min_size=n_labels, max_size=n_labels))
    return topk, labels, weights


@given(rankings(), st.integers(1, 5))
def test_against_the_plain_twin(ranking, k):
    topk, labels, weights = ranking
    dense = np.zeros((len(topk), 8))
    for row, true in enumerate(labels):
        dense[row, list(true)] = 1
    scores = evaluate_topk(np.array(topk), csr_matrix(dense), ks=[k], inv_propensity=weights)
    assert scores == pytest.approx(naive(topk, labels, weights, k))


@pytest.fixture
def scored():
    """Dense scores and labels in which every sample has a label, so that all definitions coincide."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(30.0), (40, 1)), axis=1)
    true = rng.random((40, 30)) < 0.2
    true[np.arange(40), rng.integers(30, size=40)] = True
    return scores, true.astype(np.float64), np.argsort(-scores, axis=1)[:, :5]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ndcg_against_scikit_learn(scored, k):
    scores, true, topk = scored
    assert ndcg_at_k(topk, csr_matrix(true), k) == pytest.approx(
        ndcg_score(true, scores, k=k, ignore_ties=True)
    )


def test_against_pyxclib(scored):
    xc_metrics = pytest.importorskip("xclib.evaluation.xc_metrics", reason="pyxclib is not installed")
    scores, true, topk = scored
    true = csr_matrix(true)
    weights = xc_metrics.compute_inv_propesity(true, 0.55, 1.5)
    np.testing.assert_allclose(propensities(true), weights)
    ours = evaluate_topk(topk, true, ks=range(1, 6), inv_propensity=weights)
    theirs = {
        "P": xc_metrics.precision(csr_matrix(scores), true, k=5),
        "nDCG": xc_metrics.ndcg(csr_matrix(scores), true, k=5),
        "R": xc_metrics.recall(csr_matrix(scores), true, k=5),
        "PSP": xc_metrics.psprecision(csr_matrix(scores), true, weights, k=5),
    }
    for name, values in theirs.items():
        np.testing.assert_allclose([ours[f"{name}@{k}"] for k in range(1, 6)], values, rtol=1e-5)
