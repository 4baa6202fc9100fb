"""What every kernel does with arrays as callers may have them: strided, of another type or byte order, read-only.

A kernel either refuses such an array, changing nothing, or has the result that it has for a plain one.
"""

from functools import wraps

import numpy as np
import pytest

from slide.config import LSHConfig
from slide.kernels import (
    active,
    catch_up,
    dense,
    dropout,
    gradients,
    grouping,
    hogwild,
    loss_parts,
    losses,
    neighbours,
    optim,
    sampling,
    search,
    sketch,
    sparse,
    sparse_input,
    tables,
)
from slide.kernels.grouping import PairGroups
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient
from slide.lsh.families import make_dwta, make_simhash


def int32(*values):
    return np.array(values, np.int32)


def int64(*values):
    return np.array(values, np.int64)


def uint32(*shape):
    return np.zeros(shape, np.uint32)


def floats(*shape):
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape) / 8


def table():
    rows = RowTable(4, 16, moments=0, hugepages=False)
    rows.weights[:] = floats(4, 16)
    return rows


def groups():
    pairs = PairGroups(3, hugepages=False)
    pairs.group(int32(2, 0, 2), int64(0, 2), int64(2, 3), 4)
    return pairs


def simhash():
    return make_simhash(LSHConfig(k=2, l=3), 16, 4, np.random.default_rng(0))


def dwta():
    return make_dwta(LSHConfig(family="dwta", k=1, l=2, bin_size=4), 16, 4, np.random.default_rng(0))


def built():
    """Two tables of four ids in two buckets: offsets and ids."""
    return int32(*[[0, 2, 4]] * 2), int32([0, 2, 1, 3], [0, 1, 2, 3])


RUNS = int64(0, 2), int64(2, 3)
OWED = catch_up.Owed(3, 0, np.zeros(0), (0.9, 0.99), None)
ACTIVE = (
    floats(2, 3), 2, floats(4), int64(0, 2), int64(2, 4), int64(0, 1, 2), int32(0, 3), floats(2), 0.5, floats(2),
    floats(2),
)  # fmt: skip


def copies(arguments):
    return [np.copy(x) if np.ndim(x) else x for x in arguments]


def on_sets(loss):
    """A loss that takes the arrays of its active sets one by one."""

    @wraps(loss)
    def call(*arguments):
        return loss(losses.ActiveSets(*arguments[:8]), *arguments[8:])

    return call


# What is called, and with what; a RowTable, groups and the like are made anew for each call.
CALLS = {
    "sparse.spmm": lambda: (
        sparse.spmm, table(), int64(0, 1, 2), int32(0, 3), floats(2), floats(16), True, floats(2, 16), 1,
    ),
    "sparse.sddmm": lambda: (sparse.sddmm, table(), groups(), floats(2, 16), floats(3), 1),
    "sparse.take_rows": lambda: (
        sparse.take_rows, int64(0, 1, 2), int32(0, 1), floats(2), floats(2), int64(1, 0), True, int64(0, 0, 0),
        int32(0, 0),
        floats(2),
    ),
    "SampleGradient.sum_into": lambda: (SampleGradient(2, 16).sum_into, floats(2, 16), floats(2, 16), 1),
    "optim.step_groups": lambda: (
        optim.step_groups, table(), groups(), floats(3), floats(2, 16), None, optim.sgd(1, 1), 1,
    ),
    "optim.step_vector": lambda: (
        optim.step_vector, floats(16), floats(16), floats(16), floats(16), optim.adam(0.1, 0.9, 0.9, 1e-8, 1),
    ),
    "sparse_input.sddmm": lambda: (
        sparse_input.sddmm, table(), groups(), *RUNS, int32(0, 3, 9), floats(3), floats(3), 1,
    ),
    "sparse_input.step_groups": lambda: (
        sparse_input.step_groups, table(), groups(), floats(3), *RUNS, int32(0, 3, 9), floats(3), None, True,
        optim.sgd(1, 1), 1,
    ),
    "dense.shared_logits": lambda: (
        dense.shared_logits, table(), int32(0, 3), floats(2), floats(2, 16), floats(2, 2), 1,
    ),
    "dense.shared_step": lambda: (
        dense.shared_step, table(), int32(0, 3), floats(2, 2), floats(2, 16), SampleGradient(2, 16), optim.sgd(1, 1), 1,
    ),
    "dense.shared_gradients": lambda: (
        dense.shared_gradients, table(), int32(0, 3), floats(2, 2), floats(2, 16), floats(2, 16), floats(2, 16),
        floats(2), 1,
    ),
    "gradients.row_gradients": lambda: (
        gradients.row_gradients, groups(), floats(3), floats(2, 16), floats(2, 16), floats(2), 1,
    ),
    "gradients.step_rows": lambda: (
        gradients.step_rows, table(), int32(0, 2), floats(2, 16), floats(2), optim.sgd(1, 1), 1,
    ),
    "hogwild.touched_rows": lambda: (
        hogwild.touched_rows, int32(2, 0, 2), *RUNS, int32(0, 0, 0, 0), 7, int32(0, 0, 0), 1,
    ),
    "hogwild.sddmm": lambda: (hogwild.sddmm, table(), int32(2, 0, 2), *RUNS, floats(2, 16), floats(3), 1),
    "hogwild.step_rows": lambda: (
        hogwild.step_rows, table(), RowTable(4, 16, moments=0), int32(0, 2), int32(2, 0, 2), *RUNS, floats(3),
        floats(2, 16),
        None, optim.sgd(1, 1), 1,
    ),
    "catch_up": lambda: (catch_up.catch_up, RowTable(4, 16), int32(0, 2), OWED, 1),
    "catch_up.add_step": lambda: (
        catch_up.add_step, np.ones(2), np.ones((4, 1, 2)), np.ones(2), np.ones(2), 0.1, 1.0, 0.0, 0.9, floats(1, 8),
    ),
    "PairGroups.group": lambda: (PairGroups(3).group, int32(2, 0, 2), *RUNS, 4),
    "active.draw_uniform": lambda: (active.draw_uniform, int32(0, 0, 0), 9, 1, 2),
    "active.sorted_unique": lambda: (active.sorted_unique, int32(3, 1, 3), int32(0, 0, 0), 9),
    "active.label_places": lambda: (active.label_places, int32(1, 3), int64(0, 1, 2), int32(3, 4), int32(0, 0)),
    "dropout.drop_units": lambda: (dropout.drop_units, floats(2, 5), 0.5, 1, 2, 1),
    "dropout.drop_pairs": lambda: (dropout.drop_pairs, floats(3), int32(2, 0, 2), *RUNS, 0.5, 1, 2, 1),
    "dropout.drop_entries": lambda: (
        dropout.drop_entries, int64(0, 1, 2), int32(0, 1), floats(2), 0.5, 1, 2, int64(0, 0, 0), int32(0, 0), floats(2),
    ),
    "losses.softmax": lambda: (on_sets(losses.softmax_cross_entropy), *copies(ACTIVE), 1),
    "losses.logistic": lambda: (on_sets(losses.logistic_cross_entropy), *copies(ACTIVE), 1),
    "loss_parts.softmax_terms": lambda: (
        on_sets(loss_parts.softmax_terms), *copies(ACTIVE[:8]), np.zeros((2, loss_parts.TERMS)), 1,
    ),
    "loss_parts.softmax_gradients": lambda: (
        on_sets(loss_parts.softmax_gradients), *copies(ACTIVE[:8]), floats(2), floats(2), 0.5, 1,
    ),
    "loss_parts.largest_logits": lambda: (
        on_sets(loss_parts.largest_logits), *copies(ACTIVE[:8]), np.zeros((2, 2)),
    ),
    "losses.remove_offsets": lambda: (losses.remove_offsets, floats(2, 3), floats(2), *RUNS, int32(0, 1, 1), 1),
    "sampling.vanilla": lambda: (
        sampling.vanilla, uint32(2, 2), *built(), 4, int64(0, 1, 1), int32(3), 3, 1, 2, np.zeros((2, 3), np.int32),
        int64(0, 0), 1,
    ),
    "sampling.ranked": lambda: (
        sampling.ranked, uint32(2, 2), *built(), 4, int64(0, 1, 1), int32(3), 3, 1, 2, np.zeros((2, 3), np.int32),
        int64(0, 0), 1,
    ),
    "sampling.split_shared": lambda: (
        sampling.split_shared, int32(-1, 0, -1), int32([0, 1], [2, 0]), int64(2, 1), int32([0, 0], [0, 0]), int64(0,
        0), 1,
    ),
    "tables.build": lambda: (tables.build, np.uint32([[0, 1, 0], [1, 1, 0]]), np.zeros((2, 3), np.int32),
                             np.zeros((2, 3), np.int32), 1),
    "tables.update": lambda: (
        tables.update, int32(0), uint32(2, 1), np.uint32([[1, 1, 0, 1], [0, 0, 1, 1]]), *built(), 1,
    ),
    "tables.batch_probe": lambda: (tables.batch_probe, uint32(2, 2), *built(), 2, 1),
    "tables.probe": lambda: (tables.probe, uint32(2), *built()),
    "hash of dense rows": lambda: (simhash().hash, floats(3, 16), uint32(3, 4), 1, int32(2, 0)),
    "hash of sparse rows": lambda: (dwta().hash_sparse, int64(0, 1, 3), int32(4, 0, 5), floats(3), uint32(2, 2), 1),
    "search.exact_topk": lambda: (
        search.exact_topk, table(), floats(2, 16), int64(0, 1, 1), int32(3), int32([0, 0], [0, 0]), floats(2, 2), 1,
        floats(2),
    ),
    "search.candidates_topk": lambda: (
        search.candidates_topk, table(), floats(2, 16), int32([0, 1], [2, 3]), int64(2, 1), int64(0, 1, 1), int32(3),
        int32([0, 0], [0, 0]), floats(2, 2), 1,
    ),
    "neighbours.nearest": lambda: (
        neighbours.nearest, neighbours.Postings(int64(0, 1, 2), int32(0, 1), floats(2), 2), int64(0, 1), int32(1),
        floats(1),
        int32([0]), floats(1, 1), 1,
    ),
    "neighbours.best_of_rows": lambda: (
        neighbours.best_of_rows, int64(0, 2), int32(0, 3), np.ones(2), int32([1, 3]), np.ones((1, 2)), int32([0, 0]),
        np.ones((1, 2)),
    ),
}  # fmt: skip


def test_every_kernel_is_here():
    """A new kernel that takes arrays belongs in the list."""
    listed = {call()[0].__qualname__.rpartition(".")[2] for call in CALLS.values()}
    modules = (active, catch_up, dense, dropout, gradients, grouping, hogwild, loss_parts, losses, neighbours, optim,
               sampling, search, sketch, sparse, sparse_input, tables)
    public = {
        name for module in modules for name, value in vars(module).items()
        if type(value).__name__ == "cython_function_or_method" and value.__module__ == module.__name__
    }  # fmt: skip
    scalars = {"sgd", "adam", "adagrad", "measure", "room"}
    checks = {name for name in public if name.startswith(("check_", "_"))}
    assert public - scalars - checks - {"sketch_topk"} <= listed


def plain(value):
    """What a call leaves in an argument."""
    if isinstance(value, RowTable):
        return np.frombuffer(value.buffer, np.uint8).copy()
    return value.copy() if isinstance(value, np.ndarray) else None


def outcome(call, change=None):
    """Call with one argument changed; return what came back and what is in all arguments then, or the error."""
    function, *arguments = call()
    if change is not None:
        place, make = change
        arguments[place] = make(arguments[place])
    before = [plain(argument) for argument in arguments]
    try:
        result = function(*arguments)
    except (ValueError, TypeError) as error:
        return before, [plain(argument) for argument in arguments], None, error
    return before, [plain(argument) for argument in arguments], result, None


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * max(array.shape[-1], 1)), array.dtype)
    view = wide[..., : 2 * array.shape[-1] : 2]
    view[...] = array
    return view


def backwards(array):
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1]


def columns_first(array):
    return np.asfortranarray(array)


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


def wider(array):
    return array.astype({"f": np.float64, "i": np.int64, "u": np.uint64}[array.dtype.kind])


def narrower(array):
    return array.astype({"f": np.float16, "i": np.int16, "u": np.uint16}[array.dtype.kind])


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = [strided, backwards, columns_first, swapped, wider, narrower, read_only]


def equal(one, other):
    if isinstance(one, tuple):
        return all(map(equal, one, other))
    return np.array_equal(one, other, equal_nan=True) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("name", CALLS)
def test_any_layout(name):
    call = CALLS[name]
    _, expected, result, error = outcome(call)
    assert error is None
    places = [place for place, argument in enumerate(call()[1:]) if isinstance(argument, np.ndarray)]
    assert places
    for place in places:
        for layout in LAYOUTS:
            start, left, returned, error = outcome(call, (place, layout))
            case = f"{layout.__name__} as argument {place}"
            if error is not None:
                assert all(equal(one, other) for one, other in zip(start, left, strict=True)), case
                assert str(error), case
            else:
                assert equal(returned, result), case
                assert all(equal(one, other) for one, other in zip(left, expected, strict=True)), case
