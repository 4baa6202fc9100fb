"""The settings of Sphinx: ``sphinx-build -W docs docs/_build`` makes the pages."""

from importlib import metadata
from importlib.util import find_spec

project = "slide"
author = "The slide developers"
copyright = author
release = version = metadata.version("slide-xc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_mock_imports = [] if find_spec("torch") else ["torch"]
numpydoc_show_class_members = False
default_role = "code"

html_theme = "furo"
html_title = f"slide {release}"
