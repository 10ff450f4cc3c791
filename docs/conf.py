"""How the documents become a site: ``make docs``."""

import re
import sys
from pathlib import Path

from docutils import nodes
from pygments.lexers.special import TextLexer

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from declared import write_reference  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

import wasskit  # noqa: E402

project = "wasskit"
author = "The wasskit authors"
project_copyright = "The wasskit authors, MIT licence"
version = release = wasskit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# Markdown as GitHub reads it: equations between dollars, links to headings.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
smartquotes = False  # two hyphens begin an option

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"wasskit {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Docstrings are read in terminals, too: a bar is a norm there, and a word between single backticks is code.
default_role = "literal"


def escape_bars(app, what, name, obj, options, lines):
    """Bars outside of code are bars; in reStructuredText they would name substitutions."""
    for number, line in enumerate(lines):
        pieces = re.split(r"(``.*?``)", line)
        pieces[::2] = [piece.replace("|", "\\|") for piece in pieces[::2]]
        lines[number] = "".join(pieces)


def write_inline(writer, node):
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def write_block(writer, node):
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
    app.add_lexer("floors", TextLexer)
    # MathML is drawn by the browser itself, so that equations need neither a network nor a script.
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))


write_reference(HERE / "reference")
