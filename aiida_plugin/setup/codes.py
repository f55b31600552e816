"""The codes: this package's command, Python (with GPAW) for ASE calculators, and the DFT codes that are installed."""

import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from aiida.common.exceptions import ValidationError
from aiida.orm import Computer, InstalledCode, QueryBuilder, load_computer

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.setup.checks import SETUP, Finding, Part
from aiida_plugin.setup.computer import LOCALHOST
from cgcnn_ase.models.registry import pretrained_folder


def pretrained_models() -> Iterator[Part]:
    """A part for each folder of pretrained models; several models may share one."""
    for path in sorted(config.parent for config in pretrained_folder().glob("*/config.json")):
        yield Part(f"model {path.name}", partial(_look, path), partial(_make, path))


def _look(path: Path) -> Finding:
    node = CGCNNModelData.from_name(path)
    stored = node.stored()
    what = f"model {path.name}"
    if stored is None:
        return Finding(what, "missing", "it is not stored", SETUP)
    stored.contents()
    names = [name for name in stored.names if name != path.name]
    return Finding(what, "there", f"node {stored.pk}" + (f": {', '.join(stored.names)}" if names else ""))


def _make(path: Path) -> None:
    CGCNNModelData.get_or_create(path)


#: DFT codes thread badly on small cells
_ONE_THREAD = "export OMP_NUM_THREADS=1"


class CodeSpec(NamedTuple):
    """A code to have.

    Attributes
    ----------
    label
        Its name before ``@localhost``.
    plugin
        The calculation that `Code.get_builder` builds. ``cgcnn-ase`` runs ``cgcnn.train``, too: the code is the same.
    executable
        None where there is none on this machine.
    description
        Of the code's node, and of the report.
    needs
        The Python package that the plugin comes from.
    install
        How to get the executable; empty for one that comes with this package.
    prepend
        Shell lines before each run.
    """

    label: str
    plugin: str
    executable: Path | None
    description: str
    needs: str = ""
    install: str = ""
    prepend: str = ""


def wanted_codes() -> tuple[CodeSpec, ...]:
    """The codes that a set-up on this machine has."""
    gpaw = find_spec("gpaw") is not None
    return (
        CodeSpec("cgcnn-ase", "cgcnn.predict", _of_this_package(), "cgcnn-ase: predictions and training"),
        CodeSpec(
            "python",
            "cgcnn.ase_dft",
            Path(sys.executable),
            f"Python with GPAW {version('gpaw')}" if gpaw else "Python for ASE calculators, without GPAW",
            prepend=_ONE_THREAD,
        ),
        CodeSpec(
            "pw",
            "quantumespresso.pw",
            _on_path("pw.x"),
            "Quantum ESPRESSO's pw.x, one process",
            needs="aiida_quantumespresso",
            install="sudo apt-get install quantum-espresso",
            prepend=_ONE_THREAD,
        ),
        CodeSpec(
            "cp2k",
            "cp2k",
            _on_path("cp2k", "cp2k.psmp", "cp2k.ssmp"),
            "CP2K, one process",
            needs="aiida_cp2k",
            install="sudo apt-get install cp2k",
            prepend=_ONE_THREAD,
        ),
    )


def codes() -> Iterator[Part]:
    """A part for each code."""
    for wanted in wanted_codes():
        yield Part(f"code {wanted.label}@{LOCALHOST}", partial(look_at, wanted), partial(make, wanted))


def look_at(wanted: CodeSpec) -> Finding:
    """Whether the code is there and its executable still is."""
    what = f"code {wanted.label}@{LOCALHOST}"
    codes = _stored(wanted.label)
    if len(codes) > 1:
        names = ", ".join(str(code.pk) for code in codes)
        return Finding(what, "wrong", f"nodes {names} have this name", f"verdi code relabel {codes[-1].pk} NEW-NAME")
    if codes:
        gone = _what_is_gone(codes[0])
        if gone is None:
            path = str(codes[0].filepath_executable)
            other = "" if wanted.executable is None or path == str(wanted.executable) else f" ({path})"
            return Finding(what, "there", (codes[0].description or wanted.description) + other)
        if wanted.executable is not None:
            return Finding(what, "missing", gone, SETUP)
        return Finding(what, "wrong", gone, wanted.install or 'pip install "cgcnn-ase[aiida]"')
    if wanted.needs and find_spec(wanted.needs) is None:
        words = f"needs the Python package {wanted.needs.replace('_', '-')}"
        return Finding(what, "optional", words, 'pip install "cgcnn-ase[dft]"')
    if wanted.executable is None:
        command = f"{wanted.install} && {SETUP}" if wanted.install else 'pip install "cgcnn-ase[aiida]"'
        return Finding(what, "optional" if wanted.install else "wrong", "its executable is not on the PATH", command)
    return Finding(what, "missing", "there is none", SETUP)


def make(wanted: CodeSpec) -> None:
    """Store the code; one of the same name whose executable is gone gets another name, and is hidden."""
    for old in _stored(wanted.label):
        old.label = f"{wanted.label}-gone-{old.pk}"
        old.is_hidden = True
    code = InstalledCode(
        label=wanted.label,
        description=wanted.description,
        default_calc_job_plugin=wanted.plugin,
        computer=load_computer(LOCALHOST),
        filepath_executable=str(wanted.executable),
        prepend_text=wanted.prepend,
        with_mpi=False,
    )
    code.store()


def _stored(label: str) -> list[InstalledCode]:
    query = QueryBuilder().append(Computer, filters={"label": LOCALHOST}, tag="computer")
    query.append(InstalledCode, filters={"label": label}, with_computer="computer", tag="code")
    nodes: list[InstalledCode] = query.order_by({"code": {"id": "asc"}}).all(flat=True)
    return nodes


def _what_is_gone(code: InstalledCode) -> str | None:
    """Why the code cannot run, None if it can."""
    path = code.filepath_executable
    try:
        code.validate_filepath_executable()
    except ValidationError:
        if not os.path.exists(path):  # noqa: PTH110 - a PurePath
            return f"its executable {path} is gone"
        return f"its executable {path} cannot be run; check its permissions and `verdi computer test {LOCALHOST}`"
    return None


def _of_this_package() -> Path | None:
    beside = Path(sys.executable).with_name("cgcnn-ase")
    return beside if beside.is_file() else _on_path("cgcnn-ase")


def _on_path(*names: str) -> Path | None:
    return next((Path(path) for name in names if (path := shutil.which(name))), None)
