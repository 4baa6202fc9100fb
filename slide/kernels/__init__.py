"""The compiled floor: knows arrays, never a configuration, a file or a policy's name; ``slide.__doc__`` maps it."""

import os

SPINS = "10000"
"""How often GCC's OpenMP looks for work before a thread sleeps: for about a tenth of a millisecond."""


def _load_openmp():
    """Load the OpenMP runtime so that its threads soon sleep while they wait for one another.

    Threads that sleep at once cost a quarter of a batch's time on idle cores, where one loop follows the other within
    microseconds. By default the runtime spins for milliseconds. On busy cores the awaited thread then cannot run, each
    loop loses a time slice, and a batch takes ten times as long. The runtime reads its policy when it is loaded, from
    the environment, which is left as it was. A policy that the user set is respected.
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
