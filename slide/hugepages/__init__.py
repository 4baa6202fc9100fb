"""Memory you can see: what pages a system gives, what a process got, and what difference it makes.

The ``slide hugepages`` command and ``python tools/hugepages.py``. Nothing here needs root, and every source may be
missing: what cannot be known is named, with the reason. What is not Python's own is imported by the commands that
use it, so that looking works where nothing is built or installed::

    system.py       a /sys and /proc tree, real or another one, and what could not be read of it
    cgroups.py      the memory limits of a process's control groups
    smaps.py        a process's mappings: resident, huge, on which NUMA node
    facts.py        everything about a system's pages, as plain values
    verdict.py      will a buffer get hugepages here, and what to change if not
    counters.py     perf_event_open: TLB misses, page walks, faults
    probe.py        buffers as the package allocates them, and what became of them
    bench.py        gather, scatter and stream on 4 KiB and 2 MiB pages
    watch.py        a process's coverage over time
    text.py         tables, sizes and colour
    show.py         each command's result in words
    plots.py        each command's result as a figure
    commands.py     the command line
"""
