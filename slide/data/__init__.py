"""Data sets: where they come from and what they are held in.

==================  ===================================================================
`dataset`           ``Dataset``, the pair of sparse matrices; ``DataError``
`readers`           ``load``, the door: finds the format, asks the cache, calls a reader
`text`              the extreme-classification repository's text, and svmlight
`npz`               NumPy archives
`cache`             parsed text kept for the next run
`files`             archives, chunks of whole lines, files replaced all at once
`synthetic`         ``make_extreme``, data of any size with something to learn in it
==================  ===================================================================

A file's road: bytes, unpacked, in chunks of whole lines -> the compiled parser -> arrays of ids and values ->
two canonical CSR matrices -> the cache.
"""

from slide.data.dataset import DataError, Dataset
from slide.data.npz import save_npz
from slide.data.readers import load
from slide.data.synthetic import make_extreme
from slide.data.text import save_xc

__all__ = ["DataError", "Dataset", "load", "make_extreme", "save_npz", "save_xc"]
