"""The examples in PyTorch run, at sizes that say nothing, with every output layer; and learn something with slide's."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from slide.data import make_extreme, save_xc

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "torch"
HEADS = ("sampled", "full", "plain")
TINY = "--threads 1 --dim 16 --negatives 32 --batch-size 4 --json"
LANGUAGE = "--words 5000 --tokens 3000 --test-tokens 600 --length 8"
RUNS = {
    "gru_language_model": (LANGUAGE, "perplexity"),
    "transformer_language_model": (LANGUAGE, "perplexity"),
    "cnn_tagger": ("--tags 200 --points 300 --test-points 40", "P@1"),
    "sequential_recommender": ("--items 400 --users 60 --test-points 40 --length 8", "HR@10"),
}


@pytest.fixture
def example(monkeypatch):
    """Import a script, or one of the modules beside it, by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", RUNS)
def test_runs(example, capsys, name, head):
    options, figure = RUNS[name]
    found = example(name).main(f"{TINY} {options} --head {head} --steps 3".split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert found["steps"] == 3
    assert 0 <= found[figure] < math.inf


@pytest.mark.parametrize("head", HEADS)
def test_runs_for_seconds(example, head):
    found = example("cnn_tagger").main(f"{TINY} {RUNS['cnn_tagger'][0]} --head {head} --seconds 0.02".split())
    assert found["steps"] >= 1
    assert found["seconds"] >= 0.02


@pytest.mark.parametrize("head", HEADS)
def test_language_is_learnt(example, head):
    options = "--threads 1 --dim 32 --negatives 256 --lr 0.01 --steps 50"
    language = "--words 4096 --tokens 60000 --test-tokens 1000"
    found = example("gru_language_model").main(f"{options} {language} --head {head}".split())
    assert found["best_perplexity"] < found["perplexity"] < 0.7 * found["unigram_perplexity"]


def test_text_of_a_file(example, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The cat sat on the mat; the dog\nsat on the cat. " * 40)
    text = example("text").read(path, 5, 100)
    assert text.n_words == 5
    assert len(text.test) == 100
    # Of 14 words and marks four are "the", six are "cat", "sat" and "on", and the others share a number.
    assert_allclose(text.counts / len(text.train), [4 / 14, 4 / 14, 2 / 14, 2 / 14, 2 / 14], atol=0.01)
    options = f"{TINY} --steps 2 --length 8 --test-tokens 100 --text {path}".split()
    assert example("transformer_language_model").main(options)["best_perplexity"] is None
    with pytest.raises(SystemExit, match="give it more"):
        example("text").read(path, 5, 400)
    with pytest.raises(SystemExit, match="at least 4,096 words"):
        example("text").generate(100, 1000, 100)


def test_streams_of_text_go_on(example):
    batches = example("text").batches(torch.arange(20), 2, 4)
    words, following = next(batches)
    assert words.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert following.tolist() == [[1, 2, 3, 4], [11, 12, 13, 14]]
    assert next(batches)[0][0].tolist() == [4, 5, 6, 7]
    assert next(batches)[1][0].tolist() == [9]
    assert next(batches)[0][0].tolist() == [0, 1, 2, 3]


def test_language(example):
    text = example("text").generate(8192, 200_000, 1000)
    assert text.best < text.unigram_perplexity < 8192
    assert len(text.train) == 200_000
    assert len(text.test) == 1000
    assert np.all(np.diff(text.counts.numpy()) <= 0)
    again = example("text").generate(8192, 200_000, 1000)
    assert torch.equal(text.train, again.train)
    assert not torch.equal(text.train, example("text").generate(8192, 200_000, 1000, seed=1).train)


def test_tags_of_a_file(example, tmp_path):
    for path, data in zip(("train", "test"), make_extreme(120, 60, 50, test_samples=30), strict=True):
        save_xc(tmp_path / f"{path}.txt", data)
    options = f"{TINY} --steps 2 --data {tmp_path / 'train.txt'} {tmp_path / 'test.txt'}".split()
    assert 0 <= example("cnn_tagger").main(options)["P@1"] <= 1


def test_sessions_of_a_file(example, tmp_path):
    path = tmp_path / "sessions.txt"
    path.write_text("a b c d\nb c d a e\nf\na b d\n")
    sessions, n = example("sequential_recommender").read(path)
    assert n == 6
    assert [session.tolist() for session in sessions] == [[0, 1, 2, 3], [1, 2, 3, 0, 4], [0, 1, 3]]
    history, following = example("sequential_recommender").windows(sessions, 2, np.arange(6))
    assert history.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert following.tolist() == [[1, 2], [3, 0], [1, -1]]
    assert example("sequential_recommender").main(f"{TINY} --steps 2 --sessions {path}".split())["HR@10"] == 1
    path.write_text("a b\n")
    with pytest.raises(SystemExit, match="three items or more"):
        example("sequential_recommender").read(path)
