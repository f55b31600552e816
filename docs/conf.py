"""Sphinx configuration. Build with ``make docs``; a warning is an error."""

import os
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generated_pages import fill_in

# AiiDA makes its folder when it is imported: not in the home folder. Its own deprecations are none of ours.
os.environ.setdefault("AIIDA_PATH", tempfile.mkdtemp())
from aiida.manage.configuration import get_config

get_config(create=True).set_option("warnings.showdeprecations", False)

project = "cgcnn-ase"
author = "The cgcnn-ase developers"
copyright = "2026, The cgcnn-ase developers"
release = metadata.version("cgcnn-ase")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_design"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # several classes have a field called "std"

html_theme = "furo"
html_title = "cgcnn-ase"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "model_config"}


def escape_bars(_app, _what, _name, _obj, _options, lines):
    """In docstrings |x| is an absolute value, not a substitution of reStructuredText. Literals stay as they are."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "|")):
            pieces = re.split(r"(``.*?``|`[^`]*`)", line)
            pieces[::2] = [re.sub(r"(?<!\\)\|(?=\S)", r"\|", piece) for piece in pieces[::2]]
            lines[number] = "".join(pieces)


def setup(app):
    """Sphinx's hook."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("source-read", fill_in)
