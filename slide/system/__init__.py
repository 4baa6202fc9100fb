"""The machine and this process: threads, BLAS, large buffers, memory limits.

==========  ============================================================
`buffers`   named large memory, and the report of it
`guard`     who uses an object: one thread that changes it, or any number that read it
`blas`      one thread for BLAS around the package's own parallel loops
`memory`    the memory that is still available, and whether something fits into it
`cgroups`   the limits of control groups; `smaps` the pages of this process; `proc` the files both are read from
`extras`    optional packages, imported when they are needed
`renames`   former names of parameters, which stay valid
`info`      version, threads, instruction set, huge pages: what ``slide info`` tells of the machine
==========  ============================================================
"""
