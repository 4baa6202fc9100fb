"""The facts about this installation."""

import io
import re

import pytest

from slide import __version__, show_config
from slide.system import info


def test_facts():
    facts = info.config_facts()
    assert facts["version"] == __version__
    assert facts["openmp"]
    assert facts["threads"] >= 1
    assert facts["isa"] in ("baseline", "avx2", "avx512")


@pytest.mark.parametrize(
    ("text", "mode"),
    [("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), (None, "unavailable")],
)
def test_hugepage_mode(tmp_path, monkeypatch, text, mode):
    file = tmp_path / "enabled"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(info, "THP", file)
    assert info.hugepage_mode() == mode


def test_show_config(capsys):
    show_config()
    printed = capsys.readouterr().out
    assert re.search(r"OpenMP: +yes", printed)
    assert re.search(r"instruction set: \w+ \(this processor has \w+\)", printed)
    file = io.StringIO()
    show_config(file)
    assert file.getvalue() == printed


def test_show_config_tells_what_is_missing(monkeypatch):
    monkeypatch.setattr(info.parallel, "openmp_version", lambda: 0)
    monkeypatch.setattr(info, "hugepage_mode", lambda: "never")
    file = io.StringIO()
    show_config(file)
    assert "built without it, so there is one thread" in file.getvalue()
    assert "large buffers use 4 KiB pages" in file.getvalue()
