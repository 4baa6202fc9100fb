"""The methods that `compare.py` compares, each behind the same few calls, and the settings that each is run with.

A method is prepared (converts and writes what it reads; not timed), fitted (timed), given queries (not timed) and asked
for predictions (timed). It imports its package when it is made, so that one which is missing stops nobody else. Where
nothing else is said the settings are the package's defaults.
"""

import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, diags

FEW_LABELS = 5000
"""Up to so many labels a classifier for each is affordable."""


TUNING_POINTS = 2000
"""The most held-out samples that settings are chosen on."""


class Unsuitable(Exception):
    """The method is not for these data; the message says why."""


class Peer:
    """A method of extreme classification.

    Parameters
    ----------
    threads, seed : int
    folder : str
        Empty, for its files.
    args : argparse.Namespace
        The options of `compare.py`.

    Attributes
    ----------
    settings : dict
        That differ from the package's defaults, and what else one must know to read the figures.
    tuning_seconds : float
        Spent on choosing settings by ``fit``; not part of training.
    """

    package: str | None = None
    masks = False
    """Whether ``predict`` itself leaves out what must not be predicted."""

    def __init__(self, threads, seed, folder, args):
        self.threads, self.seed, self.folder, self.args = threads, seed, Path(folder), args
        self.settings, self.tuning_seconds = {}, 0.0
        self.version = None if self.package is None else version(self.package)

    def prepare(self, train):
        self.train = train

    def fit(self):
        raise NotImplementedError

    def queries(self, X):
        return X

    def predict(self, queries, k):
        """Return label ids [n, k], best first, -1 for none; or lists of ids, at most k each."""
        raise NotImplementedError


class Popular(Peer):
    """The most frequent labels, for everybody."""

    def fit(self):
        counts = np.bincount(self.train.Y.indices, minlength=self.train.n_labels)
        self.order = np.argsort(-counts, kind="stable")

    def predict(self, queries, k):
        return np.tile(self.order[:k], (queries.shape[0], 1))


class NearestNeighbours(Peer):
    """Votes of the 50 training samples of highest cosine similarity, weighted by it; SciPy's sparse product."""

    K = 50
    BLOCK = 256

    def __init__(self, *rest):
        super().__init__(*rest)
        self.settings = {"k": self.K, "similarity": "cosine", "threads": 1}

    def fit(self):
        self.samples = unit_rows(self.train.X).T.tocsr()

    def queries(self, X):
        return unit_rows(X)

    def predict(self, queries, k):
        found = []
        for first in range(0, queries.shape[0], self.BLOCK):
            similar = (queries[first : first + self.BLOCK] @ self.samples).tocsr()
            votes = (largest(similar, self.K) @ self.train.Y).tocsr()
            for row in range(votes.shape[0]):
                ids, scores = entries(votes, row)
                found.append(ids[np.lexsort((ids, -scores))][:k])
        return found


class Slide(Peer):
    """This package's network, with the configuration that the options name."""

    masks = True

    def __init__(self, threads, seed, folder, args):
        from dataclasses import replace

        import slide
        from slide.config.dicts import to_dict

        super().__init__(threads, seed, folder, args)
        self.version = slide.__version__
        run = args.run_config
        self.network_config, self.training = replace(run.network, seed=seed), run.training
        self.settings = to_dict(run)

    def train_network(self, data):
        from slide import Network

        network = Network(data.n_features, data.n_labels, self.network_config, threads=self.threads)
        network.fit(data.X, data.Y, config=self.training)
        return network

    def fit(self):
        self.model = self.train_network(self.train)

    def predict(self, queries, k):
        return self.model.predict(queries, k, exclude=queries if self.args.mask_inputs else None)[0]


class SlideMixture(Slide):
    """The network mixed with nearest neighbours; what the mixture is of is chosen on held-out training samples."""

    def prepare(self, train):
        # Before anything is timed or trained: without them there is nothing to measure.
        from slide import Mixture, Neighbours

        self.kinds = Mixture, Neighbours
        super().prepare(train)

    def fit(self):
        from common import draw, split

        Mixture, Neighbours = self.kinds
        start = time.perf_counter()
        rest, held_out = split(self.train)
        held_out = draw(held_out, TUNING_POINTS)
        network = self.train_network(rest)
        tuned = Mixture.tuned(
            network,
            Neighbours(rest.X, rest.Y, feature_weights=network.feature_weights, threads=self.threads),
            held_out.X,
            held_out.Y,
            monitor=self.args.monitor,
            mask_inputs=self.args.mask_inputs,
        )
        found = {"k": tuned.neighbours.k, "power": tuned.neighbours.power}
        self.tuning_seconds = time.perf_counter() - start
        self.settings = {**self.settings, "mixture": {"share": tuned.share, **found}}
        network = self.train_network(self.train)
        weights = network.feature_weights
        neighbours = Neighbours(self.train.X, self.train.Y, feature_weights=weights, threads=self.threads, **found)
        self.model = Mixture(network, neighbours, share=tuned.share)

    def predict(self, queries, k):
        options = {"exclude": queries} if self.args.mask_inputs else {}
        return self.model.predict(queries, k, **options)[0]


class Omikuji(Peer):
    """Partitioned label trees (Parabel: balanced 2-means, 3 trees, hinge loss)."""

    package = "omikuji"
    changes = {}  # noqa: RUF012

    def __init__(self, *rest):
        import omikuji

        super().__init__(*rest)
        self.kind, self.settings = omikuji.Model, dict(self.changes)

    def prepare(self, train):
        from slide.data import save_xc

        self.path = str(self.folder / "train.txt")
        save_xc(self.path, train)

    def fit(self):
        # It reads the file itself; reading is a small part of the time.
        parameters = self.kind.default_hyper_param()
        for name, value in self.changes.items():
            setattr(parameters, name, value)
        self.model = self.kind.train_on_data(self.path, parameters, self.threads)
        self.model.init_prediction_thread_pool(self.threads)

    def queries(self, X):
        ends = X.indptr
        pairs = list(zip(X.indices.tolist(), X.data.tolist(), strict=True))
        return [pairs[ends[i] : ends[i + 1]] for i in range(X.shape[0])]

    def predict(self, queries, k):
        return [[label for label, _ in self.model.predict(query, top_k=k)] for query in queries]


class OmikujiBonsai(Omikuji):
    """Wide and shallow trees by ordinary k-means, as its documentation sets them for comparison with Bonsai."""

    changes = {"cluster_balanced": False, "cluster_k": 100, "max_depth": 3}  # noqa: RUF012


class OmikujiCollapsed(Omikuji):
    """Balanced trees with layers collapsed, as its documentation sets them after AttentionXML."""

    changes = {"collapse_every_n_layers": 5}  # noqa: RUF012


class NapkinXC(Peer):
    """A probabilistic label tree (PLT) by hierarchical k-means, LIBLINEAR in its nodes."""

    package = "napkinxc"
    model_name = "PLT"

    def __init__(self, *rest):
        from napkinxc import models

        super().__init__(*rest)
        seed = {"seed": self.seed} if self.model_name == "PLT" else {}
        self.model = getattr(models, self.model_name)(str(self.folder), threads=self.threads, **seed)
        self.settings = {"model": self.model_name}
        self.loaded = False

    def fit(self):
        self.model.fit(self.train.X, self.train.Y)

    def queries(self, X):
        if not self.loaded:
            self.model.load()
            self.loaded = True
        return X

    def predict(self, queries, k):
        return self.model.predict(queries, top_k=k)


class NapkinXCBinary(NapkinXC):
    """Binary relevance: LIBLINEAR for every label."""

    model_name = "BR"

    def prepare(self, train):
        if train.n_labels > FEW_LABELS:
            raise Unsuitable(f"a classifier for each of {train.n_labels:,} labels")
        super().prepare(train)


class FastText(Peer):
    """The linear network of fastText's text classifier. Its features are words: their values are lost."""

    package = "fasttext"
    OPTIONS = {"dim": 100, "epoch": 25, "lr": 0.5}  # noqa: RUF012
    """The epochs and learning rate of fastText's tutorial on multi-label classification; where training then overflows,
    as it does with many labels a sample, the learning rate is halved until it does not."""

    def __init__(self, *rest):
        import fasttext

        super().__init__(*rest)
        self.fasttext = fasttext

    def prepare(self, train):
        self.options = {**self.OPTIONS, "loss": "ova" if train.n_labels <= FEW_LABELS else "hs"}
        self.path = self.folder / "train.txt"
        ends = train.Y.indptr
        with self.path.open("w") as file:
            for i, words in enumerate(self.queries(train.X)):
                labels = " ".join(f"__label__{label}" for label in train.Y.indices[ends[i] : ends[i + 1]])
                file.write(f"{labels} {words}\n")

    def fit(self):
        more = {"thread": self.threads, "seed": self.seed, "verbose": 0}
        self.model = None
        while self.model is None:
            start = time.perf_counter()
            try:
                self.model = self.fasttext.train_supervised(str(self.path), **self.options, **more)
            except RuntimeError as error:
                if "NaN" not in str(error):
                    raise
                self.options["lr"] /= 2
                self.tuning_seconds += time.perf_counter() - start
        self.settings = {**self.options, "feature values": "lost", "prediction threads": 1}

    def queries(self, X):
        ends = X.indptr
        return [" ".join(map(str, X.indices[ends[i] : ends[i + 1]])) for i in range(X.shape[0])]

    def predict(self, queries, k):
        found, _ = self.model.predict(queries, k=k)
        return [[int(label[len("__label__") :]) for label in labels] for labels in found]


class Pecos(Peer):
    """PECOS' XR-Linear: a label tree of 16 branches a node by hierarchical k-means on PIFA embeddings."""

    package = "libpecos"

    def __init__(self, *rest):
        from pecos.xmc import Indexer, LabelEmbeddingFactory
        from pecos.xmc.xlinear.model import XLinearModel

        super().__init__(*rest)
        self.indexer, self.embedding, self.kind = Indexer, LabelEmbeddingFactory, XLinearModel
        self.settings = {"features": "rows of unit length"}
        self.saved = None

    def prepare(self, train):
        self.X, self.Y = unit_rows(train.X), train.Y

    def fit(self):
        labels = self.embedding.create(self.Y, self.X, method="pifa", threads=self.threads)
        tree = self.indexer.gen(labels, threads=self.threads, seed=self.seed)
        self.model = self.kind.train(self.X, self.Y.tocsc(), C=tree, threads=self.threads)

    def queries(self, X):
        if self.saved is None:
            # Prediction is compiled code only for a model that was loaded for it.
            self.saved = str(self.folder / "model")
            self.model.save(self.saved)
            self.model = self.kind.load(self.saved, is_predict_only=True)
        return unit_rows(X)

    def predict(self, queries, k):
        scores = self.model.predict(queries, only_topk=k, threads=self.threads)
        found = []
        for row in range(scores.shape[0]):
            ids, values = entries(scores, row)
            found.append(ids[np.lexsort((ids, -values))][:k])
        return found


METHODS = {
    "slide": Slide,
    "slide-mixture": SlideMixture,
    "omikuji": Omikuji,
    "omikuji-bonsai": OmikujiBonsai,
    "omikuji-collapsed": OmikujiCollapsed,
    "napkinxc": NapkinXC,
    "napkinxc-br": NapkinXCBinary,
    "fasttext": FastText,
    "pecos": Pecos,
    "knn": NearestNeighbours,
    "popular": Popular,
}


def unit_rows(X):
    """Return the matrix with every row at unit length, rows of zeros as they are."""
    lengths = np.sqrt(np.asarray(X.multiply(X).sum(axis=1)).ravel())
    unit = csr_matrix(diags(1 / np.where(lengths > 0, lengths, 1)) @ X, dtype=np.float32)
    unit.sort_indices()
    return unit


def entries(matrix, row):
    """Return the column ids and the values of a CSR matrix' row."""
    place = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[place], matrix.data[place]


def largest(matrix, k):
    """Return the CSR matrix with the k largest values of every row alone."""
    parts = defaultdict(list)
    for row in range(matrix.shape[0]):
        ids, values = entries(matrix, row)
        if len(ids) > k:
            kept = np.argpartition(-values, k)[:k]
            ids, values = ids[kept], values[kept]
        parts["ids"].append(ids)
        parts["values"].append(values)
    ends = np.cumsum([0, *map(len, parts["ids"])])
    return csr_matrix((np.concatenate(parts["values"]), np.concatenate(parts["ids"]), ends), shape=matrix.shape)
