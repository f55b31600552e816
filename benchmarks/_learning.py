"""Workflows of many kinds of steps that the daemon is tried with: labels by EMT, relaxations, and active learning.

Each start of a job is noted in a log by its code itself, as in ``_shards``.
"""

import os
from pathlib import Path
from textwrap import dedent

from _daemon import BIN, Profile

#: cells of four atoms of Ni, Al and Cu, and the settings of EMT
_HEAD = """
from ase.build import bulk
from aiida import orm
from aiida.engine import submit
from aiida.plugins import DataFactory, WorkflowFactory
METALS = ("Ni", "Al", "Cu")
def alloy(k):
    atoms = bulk("Ni", cubic=True, a=3.6 + 0.02 * k)
    atoms.symbols = [METALS[(k // 3**i) % 3] for i in range(4)]
    return atoms
alloys = DataFactory("cgcnn.structures").from_ase([alloy(k) for k in range(8)], [f"a{k}" for k in range(8)])
emt = {"engine": "ase", "protocol": "fast", "overrides": {"calculator": "emt"}, "references": True}
"""
_LABEL = """
builder = WorkflowFactory("cgcnn.label").get_builder_from_protocol(
    orm.load_code("python"), alloys, indices=[1, 2, 3, 4], max_parallel=3, **emt
)
print("PK", submit(builder).pk)
"""
_LEARN = """
builder = WorkflowFactory("cgcnn.active_learning").get_builder_from_protocol(
    orm.load_code("cgcnn-ase"),
    DataFactory("cgcnn.model").get_or_create(MODEL),
    orm.load_code("python"),
    candidates=alloys, budget={"rounds": 2}, selection={"take": {"lcb": 2}}, relax=False,
    finetune={"overrides": {"recipe": {"epochs": 2, "engine": "torch"}}}, **emt,
)
print("PK", submit(builder).pk)
"""
_LEARN_RELAX = """
def rattled(k):
    atoms = bulk("Cu", cubic=True, a=3.65)
    atoms.rattle(0.1, seed=k)
    return atoms
structures = DataFactory("cgcnn.structures").from_ase([rattled(k) for k in range(2)], ["a", "b"])
del emt["references"]
builder = WorkflowFactory("cgcnn.learn_relax").get_builder_from_protocol(
    orm.load_code("python"), structures, settings={"fixed_cell": True}, **emt
)
print("PK", submit(builder).pk)
"""


def make_codes(profile: Profile) -> None:
    """``cgcnn-ase`` and ``python``, which note each start with the job's folder."""
    for label, plugin in (("cgcnn-ase", "cgcnn.predict"), ("python", "cgcnn.ase_dft")):
        script = profile.folder / f"{label}.sh"
        script.write_text(
            dedent(f"""\
                #!/bin/bash
                echo start "$PWD" >> {profile.folder / "runs.log"}
                exec {BIN / label} "$@"
            """)
        )
        script.chmod(0o755)
        profile.verdi(
            "code", "create", "core.code.installed", "--non-interactive", "--label", label, "--computer", "localhost",
            "--default-calc-job-plugin", plugin, "--filepath-executable", str(script),
            "--prepend-text", f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')} OMP_NUM_THREADS=1",
        )  # fmt: skip


def submit_labels(profile: Profile) -> int:
    """Submit labels of four alloys with the energies of their elements; the pk."""
    return _submit(profile, _LABEL)


def submit_learning(profile: Profile, model: Path | str) -> int:
    """Submit two rounds of active learning, each of two labels; the pk."""
    return _submit(profile, f"MODEL = {str(model)!r}\n{_LEARN}")


def submit_learn_relax(profile: Profile) -> int:
    """Submit relaxations of two rattled cells of copper by EMT that is asked as little as possible; the pk."""
    return _submit(profile, _LEARN_RELAX)


def _submit(profile: Profile, text: str) -> int:
    return int(profile.python(_HEAD + text).split("PK", 1)[1].split()[0])
