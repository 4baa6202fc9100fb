"""The machine and this process: threads, BLAS, large buffers, memory limits.

==========  ============================================================
`buffers`   named large arrays, and the report about their memory
`guard`     one thread that changes an object, or any number that read it
`blas`      one thread for BLAS around the package's own parallel loops
`memory`    the memory that is still available, and whether something fits into it
`cgroups`   the memory limits of control groups
`smaps`     the pages of this process
`proc`      the small files under /proc and /sys that these two read
`random`    generators of random numbers that follow from a seed and a number
`extras`    optional packages, imported when they are needed
`renames`   former names of parameters, which stay valid
`info`      version, threads, instruction set, hugepages: what ``slide info`` prints
==========  ============================================================
"""
