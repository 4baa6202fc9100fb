"""The commands of ``slide``: one module per command, each with ``add_parser`` and ``execute``.

``add_parser(commands)`` adds the command's parser, with two defaults. ``run`` is ``execute``: a function of the parsed
arguments that returns an exit status, and raises errors that `slide.cli` reports. ``check`` returns what is wrong with
arguments that do not go together, or None. `options` has the options of several commands, `inputs` reads their data,
`console` writes tables and the log. `training_run` is the run of ``slide train`` in one process; `distributed_run` is
that on several ranks, and `reference_run` reads the C++ program's settings for both.
"""
