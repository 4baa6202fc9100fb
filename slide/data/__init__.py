"""Data sets: where they come from and what they are held in.

==================  ===================================================================
`dataset`           ``Dataset``, the pair of sparse matrices; ``DataError``
`readers`           ``load``, the door: finds the format, asks the cache, calls a reader
`text`              the extreme-classification repository's text, and svmlight
`npz`               NumPy archives
`samples`            what takes samples as a reader meets them
`folder`            arrays that are mapped into memory; `mapped` the matrices over them
`conversion`        any file into such a folder, a piece at a time
`cache`             parsed text kept for the next run
`files`             archives, chunks of whole lines, files replaced all at once
`batches`           the samples of a batch, in the arrays the kernels read
`order`             in which an epoch goes through the data, in memory or not
`statistics`        figures of whole matrices, a piece at a time
`synthetic`         ``make_extreme``, data of any size with something to learn in it
==================  ===================================================================

A file's road: bytes, unpacked, in chunks of whole lines -> the compiled parser -> arrays of ids and values ->
two canonical CSR matrices -> the cache, or a folder.
"""

from slide.data.conversion import convert
from slide.data.dataset import DataError, Dataset
from slide.data.folder import save_folder, verify
from slide.data.npz import save_npz
from slide.data.readers import load
from slide.data.synthetic import make_extreme
from slide.data.text import save_xc

__all__ = ["DataError", "Dataset", "convert", "load", "make_extreme", "save_folder", "save_npz", "save_xc", "verify"]
