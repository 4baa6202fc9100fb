"""Training over MPI: several ranks, on one machine or many, have one network together and train it.

``Network(..., comm=comm)`` makes a `DistributedNetwork`; ``network.fit(..., comm=comm)`` trains a network of one
process on several ranks. The code is in `slide.ranks`.
"""

import slide.network  # noqa: F401 - it sets the class that gather() makes
from slide.config.distribution import DistributionConfig
from slide.ranks.network import DistributedNetwork, fit
from slide.ranks.portions import own_rows

__all__ = ["DistributedNetwork", "DistributionConfig", "fit", "own_rows"]
