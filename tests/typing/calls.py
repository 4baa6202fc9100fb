"""Wrong calls of public functions, each of which a type checker must see.

``mypy tests/typing/calls.py`` reads this file and nothing executes it. Where a wrong call is not seen, the comment that
expects its error is unused, which is an error.
"""

import numpy as np
from scipy.sparse import csr_matrix

from slide import Mixture, Neighbours, Network, NetworkConfig, RunConfig, SlideClassifier, TrainingConfig

X = csr_matrix(np.eye(3, dtype=np.float32))
network = Network(3, 3, NetworkConfig(), threads=1)

Network(3, 3, thread=1)  # type: ignore[call-arg]
Network(3)  # type: ignore[call-arg]
Network("3", 3)  # type: ignore[arg-type]
Network(3, 3, RunConfig())  # type: ignore[arg-type]
network.fit(X, X, epochs=3)  # type: ignore[call-arg]
network.fit(X, X, config=RunConfig())  # type: ignore[arg-type]
network.fit_stream([(X, X)], holdout=0.1)  # type: ignore[call-arg]
network.predict(X, top=5)  # type: ignore[call-arg]
network.evaluate(X, X, k=5)  # type: ignore[call-arg]
network.save("model", momentum=True)  # type: ignore[call-arg]
Network.load("model", map=True)  # type: ignore[call-arg]
TrainingConfig(epoch=3)  # type: ignore[call-arg]
SlideClassifier(hidden=128)  # type: ignore[call-arg]
SlideClassifier().predict_topk(X, top=3)  # type: ignore[call-arg]
Neighbours(X, X, neighbours=5)  # type: ignore[call-arg]
Mixture(network, Neighbours(X, X), shares=0.5)  # type: ignore[call-arg]

ids, scores = network.predict(X, 2)
print(ids.shape)
history = network.fit(X, X, config=TrainingConfig(epochs=1))
print(history.epochs[0].loss + 1.0)
print(history.epoch)  # type: ignore[attr-defined]
