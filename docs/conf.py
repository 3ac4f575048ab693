"""How the site is built: `sphinx-build -W docs site`. Warnings are errors; nothing is fetched from a network."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "relprop"
author = "the relprop authors"
copyright = author
release = version = metadata.version("relprop")

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "mathml",
    "tables",
]
exclude_patterns = ["_ext", "_build", "**/.ipynb_checkpoints"]

# Markdown
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = False
nb_execution_mode = "off"  # the tests execute the notebooks; the site shows what they wrote

# Python
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "code"
nitpicky = False  # types of torch and of annotations are not linked

# pages
html_theme = "pydata_sphinx_theme"
html_title = "relprop"
html_static_path = ["_static"]
html_css_files = ["relprop.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False

html_math_renderer = "mathml"  # in the page: no script, no font, no network
html_theme_options = {
    "logo": {"text": "relprop"},
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["version-line"],
    "footer_end": [],
    "back_to_top_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}
templates_path = ["_templates"]
