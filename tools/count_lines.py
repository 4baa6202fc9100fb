"""Counts the lines of the repository: ``python tools/count_lines.py [FOLDER]``, by default of this checkout.

Prints how many lines that are not blank the package, its kernels, the tests, the benchmarks, the tools and the pages
have and, for Python, the share of docstring lines; then the longest file and the number of modules at the top.
"""

import argparse
import ast
from pathlib import Path

PARTS = {
    "slide, Python": ("slide", "*.py", "slide/kernels"),
    "slide/kernels": ("slide/kernels", "*.p[xy]*", None),
    "tests": ("tests", "*.py", None),
    "bench": ("bench", "*.py", None),
    "tools": ("tools", "*.py", None),
    "docs": ("docs", "*.md", None),
}
"""Folder, pattern, and a folder in it that does not count, by part."""


def solid(lines):
    """Return how many lines are not blank."""
    return sum(bool(line.strip()) for line in lines)


def docstring_lines(source):
    """Return how many lines that are not blank are docstrings: of modules, classes, functions and constants."""
    lines, total = source.splitlines(), 0
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                total += solid(lines[statement.lineno - 1 : statement.end_lineno])
    return total


def main(root):
    """Print the counts of a checkout."""
    longest = []
    for part, (folder, pattern, without) in PARTS.items():
        lines = documented = 0
        for path in sorted((root / folder).rglob(pattern)):
            if without is not None and path.is_relative_to(root / without):
                continue
            source = path.read_text(encoding="utf-8")
            lines += solid(source.splitlines())
            if path.suffix == ".py":
                documented += docstring_lines(source)
            if part.startswith("slide") and path.suffix in (".py", ".pyx"):
                longest.append((len(source.splitlines()), path.relative_to(root)))
        share = f", {documented / lines:.1%} of them docstrings" if documented else ""
        print(f"{part + ':':16}{lines:7,} lines{share}")
    print(f"{'README.md:':16}{solid((root / 'README.md').read_text(encoding='utf-8').splitlines()):7,} lines")
    length, path = max(longest)
    print(f"longest file of slide: {path}, {length} lines, blank ones included")
    print(f"modules at the top of slide: {len(list((root / 'slide').glob('*.py')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    main(parser.parse_args().checkout)
