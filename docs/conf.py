"""Sphinx: `make docs` builds the documentation without warnings."""

import json
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser

import raylatent

project = "raylatent"
author = "The raylatent authors"
release = raylatent.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_title = "raylatent"
suppress_warnings = [
    "misc.highlighting_failure"
]  # DuckDB's structs are no standard SQL


class NotebookParser(MystParser):
    """A notebook's cells as text and code; a test runs them."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:  # noqa: ANN401
        """Parse what the cells say."""
        parts = []
        for cell in json.loads(inputstring)["cells"]:
            text = "".join(cell["source"])
            is_code = cell["cell_type"] == "code"
            parts.append(f"```python\n{text}\n```" if is_code else text)
        super().parse("\n\n".join(parts), document)


def setup(app: Any) -> None:  # noqa: ANN401
    """Let Sphinx read notebooks."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
