"""Shared neurons sorted, and the places of labels."""

from itertools import pairwise

import numpy as np
import pytest

from slide.kernels.active import draw_uniform, label_places, sorted_unique


@pytest.mark.parametrize("n_rows", [1, 2, 2048, 2049, 2**22 + 1, 2**31 - 1])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 3000])
def test_sorted_unique_twin(rng, n, n_rows):
    ids = (n_rows * rng.random(n) ** 4).astype(np.int32)
    expected = np.unique(ids)
    kept = sorted_unique(ids, np.zeros(n + 1, np.int32), n_rows)
    np.testing.assert_array_equal(ids[:kept], expected)


@pytest.mark.parametrize("n_rows", [1, 2, 17, 1000])
def test_every_row_is_drawn_as_often(n_rows):
    counts = np.zeros(n_rows)
    draws = np.zeros(4001, np.int32)
    for iteration in range(50):
        draw_uniform(draws, n_rows, 5, iteration)
        counts += np.bincount(draws, minlength=n_rows)
    expected = 50 * len(draws) / n_rows
    chi_squared = float(((counts - expected) ** 2).sum() / expected)
    assert chi_squared <= n_rows - 1 + 5 * np.sqrt(2 * n_rows)


def test_draws_are_functions_of_their_keys():
    def draw(n, *keys):
        out = np.full(n, -1, np.int32)
        draw_uniform(out, 10**6, *keys)
        return out.tolist()

    assert draw(17, 3, 4) == draw(40, 3, 4)[:17]
    assert len({tuple(draw(16, seed, iteration)) for seed in range(4) for iteration in range(4)}) == 16
    assert draw(0, 3, 4) == []
    for n_rows in (0, 2**31):
        with pytest.raises(ValueError, match=f"n_rows must lie in .*, got {n_rows}"):
            draw_uniform(np.zeros(3, np.int32), n_rows, 0, 0)


def test_bad_ids_are_refused():
    scratch = np.zeros(3, np.int32)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=rf"ids must lie in 0\.\.4, got {wrong}"):
            sorted_unique(np.array([0, wrong, 2], np.int32), scratch, 5)
    with pytest.raises(ValueError, match="scratch must have 4 entries, got 3"):
        sorted_unique(np.zeros(4, np.int32), scratch, 5)


def places_twin(shared, label_ptr, labels):
    """Each label's place in the list of its sample's neurons."""
    places = []
    for first, last in pairwise(label_ptr):
        mine = labels[first:last]
        active = [*shared, *(label for label in mine if label not in shared)]
        places += [active.index(label) for label in mine]
    return places


@pytest.mark.parametrize("n_shared", [0, 1, 16, 40])
@pytest.mark.parametrize("samples", [0, 1, 9])
def test_label_places_twin(rng, n_shared, samples):
    shared = np.sort(rng.permutation(60)[:n_shared]).astype(np.int32)
    labels = [np.sort(rng.permutation(60)[: rng.integers(0, 9)]) for _ in range(samples)]
    label_ptr = np.cumsum([0, *map(len, labels)])
    flat = np.concatenate([*labels, np.zeros(0)]).astype(np.int32)
    out = np.full(len(flat), -7, np.int32)
    label_places(shared, label_ptr, flat, out)
    assert out.tolist() == places_twin(shared.tolist(), label_ptr, flat.tolist())


@pytest.mark.parametrize(
    ("label_ptr", "places", "message"),
    [
        ([], 3, "label_ptr must rise from 0 to 3"),
        ([1, 3], 3, "label_ptr must rise from 0 to 3"),
        ([0, 2], 3, "label_ptr must rise from 0 to 3"),
        ([0, 3], 2, "label_ptr must rise from 0 to 3"),
        ([0, 2, 1, 3], 3, "label_ptr falls after sample 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(label_ptr, places, message):
    with pytest.raises(ValueError, match=message):
        label_places(
            np.zeros(1, np.int32), np.array(label_ptr, np.int64), np.zeros(3, np.int32), np.zeros(places, np.int32)
        )
