"""Coverage-guided fuzzing of everything that reads what others wrote: data, configurations, saved networks.

``python -m tools.fuzz`` in the repository's root says what it can do. In here::

    __main__.py    the command: build, run, replay, minimise, seeds
    targets.py     Target: what turns bytes into files, reads them, and may raise; all targets by name
    readers.py     data in text, in archives and in folders, and configurations
    models.py      saved networks, whole, mapped and in one file, and checkpoints of runs
    folders.py     bytes as a list of edits to the files of a sound folder
    limits.py      memory that an input of some size may take
    mutation.py    seeded mutations without coverage, for the tests
    build.py       a copy of the package whose kernels report their coverage
    engine.py      the loop around libFuzzer, which keeps going when it has found something

The tests read the same targets without libFuzzer: `tests/test_fuzz_readers.py` and its neighbours.
"""
