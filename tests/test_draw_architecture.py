"""The script that draws the architecture, on a small house of its own; `make imports` holds it against the real one."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = {
    "cgcnn_ase/__init__.py": "from cgcnn_ase.top.door import Door\n",
    "cgcnn_ase/ground/__init__.py": '"""Stand under all. Not shown."""\n',
    "cgcnn_ase/middle/__init__.py": '"""Stand between."""\n',
    "cgcnn_ase/middle/lazy.py": "def f():\n    from ..ground import x\n",
    "cgcnn_ase/top/__init__.py": '"""Stand above."""\nfrom typing import TYPE_CHECKING\n',
    "cgcnn_ase/top/door.py": "if TYPE_CHECKING:\n    from cgcnn_ase import middle\n",
    "cgcnn_ase/loose.py": '"""Stand alone."""\nWHERE = "cgcnn_ase.middle.lazy:f"\n',
    "aiida_plugin/__init__.py": "",
    "aiida_plugin/data/__init__.py": '"""Store."""\nfrom cgcnn_ase import Door\n',
}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "scripts" / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def house(tmp_path, script, monkeypatch):
    for name, text in HOUSE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return tmp_path


def imports(script, house):
    return script.read_imports(script.read_modules(house))[0]


def test_every_kind_of_import_counts(script, house):
    """Relative and inside a function, under TYPE_CHECKING, named by a string, and through the front door."""
    assert imports(script, house) == {
        "cgcnn_ase.ground": set(),
        "cgcnn_ase.middle": {"cgcnn_ase.ground"},
        "cgcnn_ase.top": {"cgcnn_ase.middle"},
        "cgcnn_ase.loose": {"cgcnn_ase.middle"},
        "aiida_plugin.data": {"cgcnn_ase.top"},
    }


def test_floors_and_table(script, house):
    edges = imports(script, house)
    assert script.floors_of(edges, "cgcnn_ase") == [
        ["cgcnn_ase.ground"],
        ["cgcnn_ase.middle"],
        ["cgcnn_ase.loose", "cgcnn_ase.top"],
    ]
    assert script.circles(edges) == []
    table = script.tables(edges, script.read_modules(house))
    assert "| 1 | `ground` | Stand under all. | none |" in table
    assert "| 1 | `data` | Store. | `cgcnn_ase.top` |" in table
    assert script.picture(edges, script.read_modules(house)).count("<g>") == 5


def test_a_circle_is_found(script, house):
    (house / "cgcnn_ase/ground/up.py").write_text("import cgcnn_ase.top.door\n")
    edges = imports(script, house)
    assert script.circles(edges) == [["cgcnn_ase.ground", "cgcnn_ase.middle", "cgcnn_ase.top"]]
