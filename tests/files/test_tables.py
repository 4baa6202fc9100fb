"""Tables as text."""

import pytest

from slide.files.tables import table

ROWS = [("a", 1, "x"), ("bcd", 23456, "")]


def test_columns_are_aligned():
    assert table(("", "number", "note"), ROWS) == "     number  note\na         1     x\nbcd   23456"


def test_alignment_widths_and_gap():
    text = table(("name", "n", ""), ROWS, align="rrl", widths=(5, 6, 0), gap="")
    assert text == " name     n\n    a     1x\n  bcd 23456"


def test_markdown():
    expected = ["| name | n     |", "| ---- | ----- |", "| a    | 1     |", "| bcd  | 23456 |"]
    assert table(("name", "n"), [row[:2] for row in ROWS], align="ll", markdown=True).split("\n") == expected
    # A rule needs a dash, however narrow the column is.
    assert table(("a", "b"), [(1, 2)], markdown=True) == "| a |  b |\n| - | -: |\n| 1 |  2 |"


def test_markdown_without_padding():
    expected = "| name | number |\n| --- | ---: |\n| a | 1 |\n| bcd | 23456 |"
    assert table(("name", "number"), [row[:2] for row in ROWS], markdown=True, pad=False) == expected


def test_a_table_without_rows():
    assert table(("a", "b"), []) == "a  b"


def test_rows_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="zip"):
        table(("a", "b"), [(1,)])
