"""Registries: the package's own objects, registered ones, and those of other installed packages."""

import sys
from pathlib import Path

import pytest

from cgcnn_ase.core.registry import Registry

GROUP = "cgcnn_ase.shapes"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a module and three entry points, of which two are broken."""
    (tmp_path / "shapes_of_mine.py").write_text("class Triangle: ...\n")
    info = tmp_path / "shapes_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\ntriangle = shapes_of_mine:Triangle\nlost = shapes_of_mine:Lost\nabsent = no_such_module:A\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shapes_of_mine", raising=False)


@pytest.fixture
def shapes() -> Registry[type]:
    return Registry("shape", GROUP, {"number": "numbers:Number"})


@pytest.mark.usefixtures("installed")
def test_another_packages_object_is_found_by_name(shapes: Registry[type]) -> None:
    assert shapes.names() == ["absent", "lost", "number", "triangle"]
    assert shapes.check("triangle") == "triangle"
    assert "shapes_of_mine" not in sys.modules  # it was not asked for yet
    assert shapes.get("triangle").__name__ == "Triangle"
    assert shapes.get("triangle") is shapes.get("triangle")


@pytest.mark.usefixtures("installed")
def test_broken_entry_points_say_what_is_missing(shapes: Registry[type]) -> None:
    with pytest.raises(ImportError, match=r"shape 'lost'.*shapes_of_mine:Lost"):
        shapes.get("lost")
    with pytest.raises(ImportError, match=r"shape 'absent'.*no_such_module") as caught:
        shapes.get("absent")
    assert caught.value.name == "no_such_module"


def test_an_unknown_name_gets_the_nearest_and_all_allowed(shapes: Registry[type]) -> None:
    with pytest.raises(ValueError, match="unknown shape 'numbr'; did you mean number\\? allowed: number"):
        shapes.get("numbr")


def test_a_name_is_registered_once(shapes: Registry[type]) -> None:
    shapes.register("circle")(complex)
    assert shapes.get("circle") is complex
    for taken in ("circle", "number"):
        with pytest.raises(ValueError, match="already"):
            shapes.register(taken)
