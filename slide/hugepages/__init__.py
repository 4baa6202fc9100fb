"""Which memory pages a system gives, which ones a process got, and what difference they make.

This is the ``slide hugepages`` command, and ``python tools/hugepages.py``. Nothing here needs root, and any source of
facts may be missing: what cannot be known is listed, with the reason. Packages other than Python's own are imported
only by the commands that use them, so that ``status`` works even if nothing is built or installed.

==========  ============================================================
`facts`     everything about a system's pages, as plain values
`verdict`   whether a buffer gets hugepages here, and what to change if not
`counters`  perf_event_open: TLB misses, page walks, faults
`probe`     buffers as the package allocates them, and the pages that they got
`bench`     gather, scatter and stream on 4 KiB and 2 MiB pages
`watch`     a process's memory in hugepages over time
`text`      tables, sizes and colour
`show`      each command's result as text
`plots`     each command's result as a figure
`commands`  the command line
==========  ============================================================

The files under /proc and /sys are read in `slide.system`: `proc`, `cgroups` and `smaps`.
"""
