"""How the documents become a site: ``make docs``."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from declared import write_reference  # noqa: E402

import wasskit  # noqa: E402

project = "wasskit"
author = "The wasskit authors"
project_copyright = "The wasskit authors, MIT licence"
version = release = wasskit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# Markdown as GitHub reads it: equations between dollars, links to headings.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"wasskit {release}"
html_static_path: list[str] = []

# Docstrings are read in terminals, too: a bar is a norm there, and a word between single backticks is code.
default_role = "literal"


def escape_bars(app, what, name, obj, options, lines):
    """Bars outside of code are bars; in reStructuredText they would name substitutions."""
    for number, line in enumerate(lines):
        pieces = re.split(r"(``.*?``)", line)
        pieces[::2] = [piece.replace("|", "\\|") for piece in pieces[::2]]
        lines[number] = "".join(pieces)


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars, priority=900)


write_reference(HERE / "reference")
