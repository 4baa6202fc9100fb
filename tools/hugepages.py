#!/usr/bin/env python3
"""Hugepages on this system: ``python tools/hugepages.py status``; needs neither root nor an installed package.

From a checkout that was not built it looks and watches all the same; ``probe`` and ``bench`` say what they lack.
"""

import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def _import_main():
    try:
        import slide
    except ImportError:
        sys.path.insert(0, str(ROOT))
        try:
            import slide  # noqa: F401
        except ImportError:
            # The package's own front door needs its kernels; this tool mostly does not.
            for name in [name for name in sys.modules if name.partition(".")[0] == "slide"]:
                del sys.modules[name]
            sys.modules["slide"] = package = ModuleType("slide")
            package.__path__ = [str(ROOT / "slide")]
    from slide.hugepages.commands import main

    return main


if __name__ == "__main__":
    sys.exit(_import_main()(prog="hugepages.py"))
