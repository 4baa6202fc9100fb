"""BLAS keeps to one thread while somebody is inside."""

import threading

import scipy.linalg  # noqa: F401 - loads the BLAS that is looked at
from threadpoolctl import threadpool_info, threadpool_limits

from slide.system.blas import one_blas_thread


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_it_is_one_until_the_outermost_is_left():
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with one_blas_thread():
            with one_blas_thread():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == before


def test_every_thread_sees_to_itself():
    found = []

    def look():
        with one_blas_thread():
            found.append(blas_threads())

    thread = threading.Thread(target=look)
    with one_blas_thread():
        thread.start()
        thread.join()
    assert found == [{1}]


def test_threads_that_overlap_leave_what_they_found():
    inside, left = threading.Event(), threading.Event()

    def stay():
        with one_blas_thread():
            inside.set()
            left.wait(10)
            found.append(blas_threads())

    found = []
    thread = threading.Thread(target=stay)
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with one_blas_thread():
            thread.start()
            inside.wait(10)
        left.set()
        thread.join()
        assert found == [{1}]
        assert blas_threads() == before
