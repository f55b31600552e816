"""Computer, codes and models of this machine: ``localhost``, this package's command, the engines' codes."""

import os
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from aiida.common.exceptions import NotExistent, ValidationError
from aiida.manage.configuration import get_config, get_profile
from aiida.orm import Computer, InstalledCode, QueryBuilder, User, load_computer

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.engines.base import CodeSpec, engines, on_path
from aiida_plugin.engines.base import engine as engine_of
from aiida_plugin.engines.checks import SETUP, Finding, Part, look
from cgcnn_ase.core.errors import install_line
from cgcnn_ase.models.registry import pretrained_folder

LOCALHOST = "localhost"
_LONG = 5.0  # seconds between two looks at the jobs above which a hint is given


def computer() -> Part:
    """Return the computer that jobs run on where no other is named: this machine."""
    return Part(f"computer {LOCALHOST}", _look_at_computer, _make_computer)


def _look_at_computer() -> Finding:
    what = f"computer {LOCALHOST}"
    try:
        node = Computer.collection.get(label=LOCALHOST)
    except NotExistent:
        return Finding(what, "missing", "there is none", SETUP)
    if node.transport_type != "core.local":
        words = f"it is reached by {node.transport_type}, not on this machine"
        return Finding(what, "wrong", words, f"verdi computer relabel {LOCALHOST} NEW-NAME && {SETUP}")
    if not node.is_configured:
        return Finding(what, "missing", "it is not configured for this user", SETUP)
    interval = node.get_minimum_job_poll_interval()
    hint = f"; a job's end is seen after up to {interval:g} s" if interval > _LONG else ""
    return Finding(what, "there", f"{node.transport_type}, {node.scheduler_type}{hint}")


def _make_computer() -> None:
    """Make it as ``verdi presto`` does."""
    try:
        node = Computer.collection.get(label=LOCALHOST)
    except NotExistent:
        profile = get_profile()
        if profile is None:
            raise ValueError("no profile is loaded") from None
        node = Computer(
            label=LOCALHOST,
            hostname=LOCALHOST,
            description="This machine, made by aiida-cgcnn setup",
            transport_type="core.local",
            scheduler_type="core.direct",
            workdir=str(Path(get_config().dirpath) / "scratch" / profile.name),
        ).store()
        node.set_minimum_job_poll_interval(1)
        node.set_default_mpiprocs_per_machine(1)
    node.configure(user=User.collection.get_default(), safe_interval=0)


def wanted_codes() -> tuple[CodeSpec, ...]:
    """Return the codes that a set-up on this machine has; ``cgcnn-ase`` runs ``cgcnn.train``, too."""
    beside = Path(sys.executable).with_name("cgcnn-ase")
    command = beside if beside.is_file() else on_path("cgcnn-ase")
    specs = {"cgcnn-ase": CodeSpec("cgcnn-ase", "cgcnn.predict", command, "cgcnn-ase: predictions and training")}
    for engine in engines():
        if (spec := engine.setup_code()) is not None:
            specs.setdefault(spec.label, spec)
    return tuple(specs.values())


def codes() -> Iterator[Part]:
    """Yield a part for each code."""
    for spec in wanted_codes():
        what, refresh = f"code {spec.label}@{LOCALHOST}", partial(_update_description, spec)
        yield Part(what, partial(look_at, spec), partial(make, spec), refresh)


def missing_for(engine: str) -> list[str]:
    """Say what an engine lacks on this machine, a line each with the command that brings it; empty if nothing.

    Raises
    ------
    ValueError
        If there is no such engine, or a package that it needs is not installed.
    """
    asked = engine_of(engine)
    specs = [spec for spec in (wanted_codes()[0], asked.setup_code()) if spec is not None]
    findings = [*map(look_at, specs), *map(look, asked.setup_parts())]
    return [f"{each.what}: {each.message}; to have it: {each.command}" for each in findings if each.state != "there"]


def look_at(spec: CodeSpec) -> Finding:
    """Find whether the code is there and its executable still is."""
    what = f"code {spec.label}@{LOCALHOST}"
    stored = _stored(spec.label)
    if len(stored) > 1:
        names = ", ".join(str(code.pk) for code in stored)
        return Finding(what, "wrong", f"nodes {names} have this name", f"verdi code relabel {stored[-1].pk} NEW-NAME")
    if stored:
        if (reason := _reason_gone(stored[0])) is None:
            if _is_of(spec, stored[0]):
                return Finding(what, "there", spec.description)
            path = str(stored[0].filepath_executable)
            return Finding(what, "there", f"{stored[0].description or spec.description} ({path})")
        if spec.executable is not None:
            return Finding(what, "missing", reason, SETUP)
        return Finding(what, "wrong", reason, spec.install or install_line("aiida"))
    return unstored(spec)


def unstored(spec: CodeSpec) -> Finding:
    """Find whether there is what a code, which is not stored, is made of."""
    what = f"code {spec.label}@{LOCALHOST}"
    if spec.needs and find_spec(spec.needs) is None:
        words = f"needs the Python package {spec.needs.replace('_', '-')}"
        return Finding(what, "optional", words, install_line("dft"))
    if spec.executable is None:
        command = f"{spec.install} && {SETUP}" if spec.install else install_line("aiida")
        return Finding(what, "optional" if spec.install else "wrong", "its executable is not on the PATH", command)
    return Finding(what, "missing", "there is none", SETUP)


def make(spec: CodeSpec) -> None:
    """Store the code; one of the same name whose executable is gone gets another name, and is hidden."""
    for old in _stored(spec.label):
        old.label = f"{spec.label}-gone-{old.pk}"
        old.is_hidden = True
    InstalledCode(
        label=spec.label,
        description=spec.description,
        default_calc_job_plugin=spec.plugin,
        computer=load_computer(LOCALHOST),
        filepath_executable=str(spec.executable),
        prepend_text=spec.prepend,
        with_mpi=False,
    ).store()


def _is_of(spec: CodeSpec, code: InstalledCode) -> bool:
    """Tell whether a stored code runs what a set-up would take now."""
    return spec.executable is not None and str(code.filepath_executable) == str(spec.executable)


def _update_description(spec: CodeSpec) -> bool:
    """Describe a stored code as it is now: a package may have come since, or another version of it."""
    (code,) = _stored(spec.label)
    if not _is_of(spec, code) or code.description == spec.description:
        return False
    code.description = spec.description
    return True


def _stored(label: str) -> list[InstalledCode]:
    query = QueryBuilder().append(Computer, filters={"label": LOCALHOST}, tag="computer")
    query.append(InstalledCode, filters={"label": label}, with_computer="computer", tag="code")
    return query.order_by({"code": {"id": "asc"}}).all(flat=True)


def _reason_gone(code: InstalledCode) -> str | None:
    """Why the code cannot run, None if it can."""
    path = code.filepath_executable
    try:
        code.validate_filepath_executable()
    except ValidationError:
        if not os.path.exists(path):  # noqa: PTH110 - a PurePath
            return f"its executable {path} is gone"
        return f"its executable {path} cannot be run; check its permissions and `verdi computer test {LOCALHOST}`"
    return None


def pretrained_models() -> Iterator[Part]:
    """Yield a part for each folder of pretrained models; several models may share one."""
    for path in sorted(config.parent for config in pretrained_folder().glob("*/config.json")):
        yield Part(f"model {path.name}", partial(_look_at_model, path), partial(CGCNNModelData.get_or_create, path))


def _look_at_model(path: Path) -> Finding:
    what, stored = f"model {path.name}", CGCNNModelData.from_name(path).stored()
    if stored is None:
        return Finding(what, "missing", "it is not stored", SETUP)
    stored.contents()
    others = [name for name in stored.names if name != path.name]
    return Finding(what, "there", f"node {stored.pk}" + (f": {', '.join(stored.names)}" if others else ""))
