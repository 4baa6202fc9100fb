"""The compiled floor: knows arrays, never a configuration, a file or a policy's name; ``slide.__doc__`` maps it."""

import os


def _load_openmp():
    """Load the OpenMP runtime so that its threads sleep, and do not spin, while they wait for one another.

    Spinning gains microseconds a loop on idle cores and costs a scheduler's time slice a loop on busy ones, where the
    thread that is waited for cannot run: two orders of magnitude. The runtime reads its policy when it is loaded, from
    the environment, which is left as it was. A policy that the user set is respected.
    """
    chosen = "OMP_WAIT_POLICY" in os.environ
    if not chosen:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        from slide.kernels import parallel  # noqa: F401
    finally:
        if not chosen:
            del os.environ["OMP_WAIT_POLICY"]


_load_openmp()
