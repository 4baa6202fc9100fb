"""The commands of ``slide``, one a module, each with ``add_parser`` and ``run``.

``add_parser(commands)`` adds the command's parser, whose default ``run`` does the work: a function of the parsed
arguments that returns an exit status, and raises for `slide.cli` to report. A default ``check``, where there is one,
returns what is wrong with arguments that do not go together, or None. `options` has what several commands accept,
`inputs` what they read.
"""
