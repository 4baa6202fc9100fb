"""Saved networks: folders, shards, safetensors. Every file is checked before it is used; none is executed.

================  ============================================================
`format`          what the files are: names, manifest, arrays
`checks`          what saved files must satisfy before memory is taken for them
`shards`          arrays in several files, which several processes write and read
`safetensors`     a network in one file, for other programs
`vectors`         the output layer as a plain matrix, for other libraries
`saved_network`   save, describe, load and restore a network, whichever kind of files it has
`archive`         a saved network as bytes, for pickles and copies
================  ============================================================
"""

from slide.persist.checks import CheckpointError
from slide.persist.saved_network import describe
from slide.persist.vectors import output_matrix, save_output_matrix

__all__ = ["CheckpointError", "describe", "output_matrix", "save_output_matrix"]
