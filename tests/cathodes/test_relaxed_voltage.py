"""Voltages from relaxed cells: by hand with ASE's BFGS, what does not end, and the command."""

import json

import pytest
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS

import cgcnn_ase.potential.relax
from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.cathodes import average_voltage, voltage_curve
from cgcnn_ase.energies.energy_model import as_energy_model
from cgcnn_ase.energies.relaxation import relax_cells
from cgcnn_ase.models.checkpoint import save_model

from ..potential.conftest import random_potential

METAL = -1.9


@pytest.fixture(scope="module")
def potential():
    return random_potential(n_networks=2)


@pytest.fixture(scope="module")
def series(potential):
    """LiCl and Li3Cl4 near a minimum of the random weights, which are soft, and then distorted."""
    chloride = bulk("LiCl", "rocksalt", a=5.13, cubic=True)
    cells = [chloride, chloride[1:]]
    result = []
    for k, one in enumerate(relax_cells(cells, as_energy_model(potential), fmax=2e-3, with_cell=True)):
        assert one.converged
        atoms = one.atoms.copy()
        atoms.rattle((0.06, 0.02)[k], seed=k)
        result.append(atoms)
    return result


def by_bfgs(atoms, potential, *, with_cell):
    moved = atoms.copy()
    moved.calc = CGCNNCalculator(potential)
    assert BFGS(FrechetCellFilter(moved) if with_cell else moved, logfile=None).run(fmax=1e-3, steps=500)
    return moved


@pytest.mark.parametrize("fixed_cell", [False, True])
def test_the_voltage_is_that_of_cells_relaxed_by_bfgs(potential, series, fixed_cell):
    result = average_voltage(*series, potential, lithium=METAL, relax=True, fixed_cell=fixed_cell, fmax=1e-3)
    cells = [by_bfgs(atoms, potential, with_cell=not fixed_cell) for atoms in series]
    energies = as_energy_model(potential).energies(cells)
    members = [-(full - part - METAL) for full, part in energies.members]  # one lithium less
    assert result.voltage == pytest.approx(sum(members) / len(members), abs=3e-4)
    assert result.members == pytest.approx(members, abs=2e-2)
    assert result.converged is True
    unrelaxed = average_voltage(*series, potential, lithium=METAL)
    assert unrelaxed.converged is None
    assert abs(unrelaxed.voltage - result.voltage) > 4e-3


def test_the_metal_is_relaxed_too_and_one_that_breaks_off_is_an_error(potential, series, monkeypatch):
    lithium = bulk("Li", "bcc", a=3.44, cubic=True)
    lithium.rattle(0.1, seed=1)
    result = average_voltage(*series, potential, lithium=lithium, relax=True, fixed_cell=True, fmax=1e-3)
    metal = by_bfgs(lithium, potential, with_cell=False).get_potential_energy() / 2
    against = average_voltage(*series, potential, lithium=metal, relax=True, fixed_cell=True, fmax=1e-3)
    assert result.voltage == pytest.approx(against.voltage, abs=1e-3)
    monkeypatch.setattr(cgcnn_ase.potential.relax, "MAX_VOLUME_CHANGE", 1.0 + 1e-9)
    with pytest.raises(ValueError, match="structure 0 is not relaxed: the volume has changed"):
        average_voltage(*series, potential, lithium=METAL, relax=True, fmax=1e-3)


def test_what_does_not_end_says_so(potential, series):
    curve = voltage_curve(series, potential, lithium=METAL, relax=True, fmax=1e-6, max_steps=1)
    assert [phase.converged for phase in curve.phases] == [False, False]
    assert all(phase.note.startswith("forces are above 1e-06 eV/Å after 1 steps") for phase in curve.phases)
    assert [step.converged for step in curve.steps] == [False]


def test_models_without_forces_are_refused(series, small_model):
    with pytest.raises(ValueError, match="relaxation needs forces"):
        voltage_curve(series, small_model, relax=True)


def test_the_command(cgcnn_ase, potential, series, tmp_path):
    model = save_model(potential, tmp_path / "potential")
    files = [tmp_path / f"x{k}.extxyz" for k in range(2)]
    for file, atoms in zip(files, series, strict=True):
        write(file, atoms)
    common = ("voltage", *files, "--model", model, "--mu", f"Li={METAL}", "--json")
    ran = cgcnn_ase(*common, "--relax", "--fmax", "0.001")
    assert ran.code == 0, ran.err
    (step,) = json.loads(ran.out)["steps"]
    expected = average_voltage(*series, potential, lithium=METAL, relax=True, fmax=1e-3)
    assert step["voltage"] == pytest.approx(expected.voltage, abs=2e-3)
    assert step["converged"] is True
    ran = cgcnn_ase(*common, "--relax", "--steps", "1", "--fmax", "1e-6")
    assert ran.code == 0, ran.err
    assert "warning: x0: forces are above 1e-06 eV/Å after 1 steps" in ran.err
    ran = cgcnn_ase(*common, "--fixed-cell")
    assert (ran.code, "--fixed-cell has no effect here: it belongs to --relax" in ran.err) == (2, True)
    ran = cgcnn_ase("voltage", *files, "--relax")
    assert (ran.code, "relaxation needs forces" in ran.err) == (2, True)
