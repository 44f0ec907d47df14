"""Sphinx configuration. The build reads the installed package and this folder, and nothing from a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pathline

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# The pages run in kernels of their own; two cores are shared by what else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "Pathline"
author = "The Pathline authors"
copyright = f"2026, {author}"
version = release = pathline.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "docstring_markdown",
    "native_math",
    "registries",
]
exclude_patterns = ["_build", "_ext", "images"]
templates_path = ["_templates"]
html_static_path = ["_static"]

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3
# Pages with {code-cell} are run at each build, from scratch, and an exception in one fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

# A single backtick in a docstring means code, as it does in Markdown.
default_role = "code"
autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
toc_object_entries = False

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "Pathline"
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "header_links_before_dropdown": 9,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_css_files = ["pathline.css"]
