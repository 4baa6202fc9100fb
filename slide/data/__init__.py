"""Data sets: where they come from and what they are held in.

=============  ========================================================================
`dataset`      ``Dataset``, the pair of sparse matrices; ``DataError``
`readers`      ``load``: finds the format, asks the cache, calls a reader
`text`         the extreme-classification repository's text format, and svmlight
`npz`          NumPy archives
`samples`      where readers put samples: arrays in memory, or a folder
`folder`       a data set as a folder of arrays, which are mapped into memory
`mapped`       the sparse matrices over these arrays
`conversion`   any file into such a folder, a piece at a time
`cache`        parsed text, kept so that it is parsed once
`unpacking`    a compressed file as a stream of bytes, within bounds
`files`        how a file is packed, chunks of whole lines, files replaced all at once
`batches`      the samples of a batch, in the arrays that kernels read
`order`        the order in which an epoch goes through the data
`statistics`   figures of whole matrices, computed a piece at a time
`fingerprint`  a digest that tells data sets apart
`synthetic`    ``make_extreme``: data of any size with something to learn in it
=============  ========================================================================

The way of a file: bytes, unpacked, in chunks of whole lines -> the compiled parser -> arrays of ids and values -> two
canonical CSR matrices -> the cache, or a folder.
"""

from slide.data.conversion import convert
from slide.data.dataset import DataError, Dataset
from slide.data.folder import save_folder, verify
from slide.data.npz import save_npz
from slide.data.readers import load
from slide.data.synthetic import make_extreme
from slide.data.text import save_xc

__all__ = ["DataError", "Dataset", "convert", "load", "make_extreme", "save_folder", "save_npz", "save_xc", "verify"]
