"""Hash tables over the rows of a layer: they find the rows that are similar to a vector.

=============  ============================================================
`families`     hash families by name: SimHash, WTA, DWTA, MinHash, and those that users register
`policies`     sampling policies by name: which of the rows it finds a sample takes
`schedule`     when tables are rebuilt
`index`        ``NeuronIndex``: hash functions and tables over the rows of one layer
`probability`  how probable it is that a row is sampled
`diagnostics`  how well an index finds what it should, and at what cost
`tuning`       the settings of an index, from measurements
=============  ============================================================
"""

from slide.config import LSHConfig
from slide.lsh.diagnostics import IndexDiagnosis, diagnose
from slide.lsh.families import HashFamily, PythonHasher, register_family
from slide.lsh.index import NeuronIndex
from slide.lsh.policies import Query, register_policy
from slide.lsh.tuning import TuningResult, tune

__all__ = [
    "HashFamily",
    "IndexDiagnosis",
    "LSHConfig",
    "NeuronIndex",
    "PythonHasher",
    "Query",
    "TuningResult",
    "diagnose",
    "register_family",
    "register_policy",
    "tune",
]
