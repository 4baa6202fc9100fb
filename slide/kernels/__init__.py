"""The compiled floor: knows arrays, never a configuration, a file or a policy's name; ``slide.__doc__`` maps it."""

import os

SPINS = "10000"
"""How often GCC's OpenMP looks whether there is work before a thread sleeps: about a tenth of a millisecond."""


def _load_openmp():
    """Load the OpenMP runtime so that its threads soon sleep while they wait for one another.

    To sleep at once costs a quarter of a batch's time on idle cores, where a loop follows the other within
    microseconds. To spin for milliseconds, as the runtime does unasked, costs a scheduler's time slice a loop on busy
    ones, where the thread that is waited for cannot run: ten times the batch. The runtime reads its policy when it is
    loaded, from the environment, which is left as it was. A policy that the user set is respected.
    """
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        from slide.kernels import parallel  # noqa: F401
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


_load_openmp()
