"""Sphinx configuration. Every code cell of every page runs when the docs are built."""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from pathlib import Path

project = "fusegraph"
author = "the fusegraph developers"
copyright = "2026, the fusegraph developers"
release = version = installed_version("fusegraph")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "README.md"]
html_theme = "furo"
html_title = f"fusegraph {release}"

# A cached output could come from another version of the package, so cells always run.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
os.environ["FUSEGRAPH_DOCS"] = str(Path(__file__).parent)  # so cells are told where the pages are
nb_merge_streams = True
nb_render_markdown_format = "gfm"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
