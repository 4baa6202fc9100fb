#!/usr/bin/env python3
"""Hugepages on this system: ``python tools/hugepages.py status``; needs neither root nor an installed package.

From a checkout that was not built it looks and watches all the same; ``probe`` and ``bench`` say what they lack.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    if find_spec("slide") is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from slide.hugepages.commands import main

    sys.exit(main(prog="hugepages.py"))
