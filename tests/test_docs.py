"""The pages of the documentation: the imports of their code exist, and so do the files that README links to."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = [
    (page.relative_to(ROOT).as_posix(), code)
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]
IMPORTS = sorted(
    {
        (page, node.module, alias.name)
        for page, code in CODE
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("cgcnn_ase", "aiida_plugin")
        for alias in node.names
    }
)


@pytest.mark.parametrize(("page", "module", "name"), IMPORTS)
def test_the_imports_on_a_page_exist(page, module, name):
    if module.startswith("aiida_plugin"):
        pytest.importorskip("aiida")
    assert hasattr(import_module(module), name), f"{page}: {module} has no {name}"


def test_there_are_imports():
    assert len(IMPORTS) > 40


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
