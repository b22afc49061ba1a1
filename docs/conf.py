"""The site: Sphinx, as PyTerrier's own documentation, over README, guides, notebooks and docstrings."""

from pyterrier_merge.version import __version__

project = "pyterrier_merge"
release = __version__
author = copyright = "The pyterrier_merge developers"

root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**", "notebooks/*.ipynb", "experiments/README.md"]
exclude_patterns = ["docs/site", "docs/static"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

nb_execution_mode = "off"  # notebooks are committed with their outputs
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["mystnb.unknown_mime_type"]
autodoc_typehints = "description"
autodoc_class_signature = "separated"  # PyTerrier's classes have a constructor that takes anything
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "pyterrier_merge"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_extra_path = ["site"]  # index.html, which leads to docs/index.html
