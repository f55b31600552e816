"""What an installation lacks is named with the extra that brings it, and a line that installs it."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import tomllib

from cgcnn_ase.core import errors
from cgcnn_ase.core.errors import EXTRA_OF, MissingExtraError, install_line, missing_extra, require

WITHOUT = """
import sys
for name in {packages!r}:
    sys.modules[name] = None  # as if it were not installed
sys.argv = {argv!r}
from {module} import main
main()
"""


def without(packages, module, *argv):
    code = WITHOUT.format(packages=packages, argv=list(argv), module=module)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_training_without_its_extra(tmp_path):
    done = without(["lightning"], "cgcnn_ase.cli", "cgcnn-ase", "train", str(tmp_path), "-o", str(tmp_path / "run"))
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"cgcnn-ase: this command needs lightning, of the extra 'train': {install_line('train')}\n"


@pytest.mark.parametrize("packages", [["aiida"], ["aiida", "click"]])
def test_aiida_without_its_extra(packages):
    done = without(packages, "aiida_plugin.cli.app", "aiida-cgcnn", "setup", "--check")
    assert done.returncode == 2
    assert done.stderr == f"aiida-cgcnn needs aiida, of the extra 'aiida': {install_line('aiida')}\n"


def test_the_line_works_from_a_checkout_and_from_an_installed_package(request, monkeypatch, tmp_path):
    assert install_line("plots") == f'pip install -e "{request.config.rootpath}[plots]"'
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "cgcnn_ase/core/errors.py"))
    assert install_line("plots") == 'pip install "cgcnn-ase[plots]"'


def test_only_a_package_of_an_extra_is_told_so(monkeypatch):
    for name in ("torch", "cgcnn_ase.nowhere", None):
        error = ImportError("no", name=name)
        assert missing_extra(error, "this") is error
    assert "of the extra 'optimize'" in str(missing_extra(ImportError("no", name="skopt.space"), "a search"))
    require("numpy", "nothing")
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="a picture needs matplotlib, of the extra 'plots': pip install"):
        require("matplotlib", "a picture")


def test_every_extra_is_documented_and_brings_what_is_said(request):
    settings = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    page = (request.config.rootpath / "docs/how_to/install.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`[^|]*)\|", page, re.MULTILINE))))
    assert documented == set(extras)
    names = {"sklearn": "scikit-learn", "skopt": "scikit-optimize", "aiida": "aiida-core"}
    for package, extra in EXTRA_OF.items():
        project = names.get(package, package.replace("_", "-").replace(".", "-"))
        assert any(line.startswith(project) for line in extras[extra]), (package, extra)
        assert find_spec(package.partition(".")[0]) is not None or extra in ("gpaw", "sevenn"), package


def test_no_message_has_an_install_line_of_its_own(request):
    """A line that is written by hand forgets the checkout."""
    written = {
        f"{file}:{number}"
        for folder in ("cgcnn_ase", "aiida_plugin")
        for file in (request.config.rootpath / folder).rglob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if "cgcnn-ase[" in line and file.name != "errors.py"
    }
    assert written == set()
