"""Relaxation by energy models: against ASE's BFGS on the same forces, and the scales of what is compared after it."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from scipy.optimize import minimize_scalar

import cgcnn_ase.potential.relax
from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.core.elements import HUBBARD_METALS
from cgcnn_ase.energies.energy_model import as_energy_model
from cgcnn_ase.energies.interface import CalculatorEnergy
from cgcnn_ase.energies.relaxation import NotConvergedError, check_forces, relax_cells, relaxed

from ..potential.conftest import random_potential


@pytest.fixture(scope="module")
def potential():
    return random_potential(seed=2, n_networks=2)


def rattled(seed=3, repeat=(1, 1, 1)):
    atoms = bulk("LiCl", "rocksalt", a=5.13, cubic=True).repeat(repeat)
    atoms.rattle(0.1, seed=seed)
    return atoms


def by_bfgs(atoms, calculator, *, with_cell=False, fmax=1e-3):
    moved = atoms.copy()
    moved.calc = calculator
    assert BFGS(FrechetCellFilter(moved) if with_cell else moved, logfile=None).run(fmax=fmax, steps=500)
    return moved


@pytest.mark.parametrize("with_cell", [False, True])
def test_a_potential_ends_where_bfgs_ends(potential, with_cell):
    model = as_energy_model(potential)
    (lowest,) = relax_cells([rattled()], model, fmax=1e-3, with_cell=with_cell)  # the minima of random weights are flat
    cells = [lowest.atoms.copy(), lowest.atoms.copy()]
    for k, atoms in enumerate(cells):
        atoms.rattle(0.02, seed=k)
    result = relax_cells(cells, model, fmax=1e-3, with_cell=with_cell)
    energies = model.energies([one.atoms for one in result]).energies
    for one, before, energy in zip(result, cells, energies, strict=True):
        expected = by_bfgs(before, CGCNNCalculator(potential), with_cell=with_cell)
        assert one.converged
        assert energy == pytest.approx(expected.get_potential_energy(), abs=1e-4)
        assert one.atoms.get_volume() == pytest.approx(expected.get_volume(), rel=5e-3 if with_cell else 1e-12)
        assert one.atoms.calc is None
        assert np.abs(one.atoms.positions - before.positions).max() > 0.005


def test_an_ase_calculator_moves_the_cell_to_the_lowest_energy():
    def energy(a):
        atoms = bulk("Cu", a=a)
        atoms.calc = EMT()
        return atoms.get_potential_energy()

    lowest = minimize_scalar(energy, bounds=(3.4, 3.8), method="bounded", options={"xatol": 1e-6})
    strained = bulk("Cu", a=3.5)
    (one,) = relax_cells([strained], CalculatorEnergy(EMT()), fmax=1e-4, with_cell=True)
    assert one.converged
    assert one.atoms.get_volume() == pytest.approx(lowest.x**3 / 4, rel=1e-3)
    (kept,) = relax_cells([strained], CalculatorEnergy(EMT()))
    assert kept.atoms.get_volume() == strained.get_volume()


def test_chgnet_by_name_has_forces():
    pytest.importorskip("chgnet")
    from cgcnn_ase.energies.interface import chgnet_calculator

    atoms = bulk("MgO", "rocksalt", a=4.21)
    atoms.rattle(0.1, seed=1)
    model = as_energy_model("chgnet")
    energy = model.energies([relaxed(atoms, model, fmax=0.02)]).energies[0]
    assert energy == pytest.approx(by_bfgs(atoms, chgnet_calculator(), fmax=0.02).get_potential_energy(), abs=2e-3)


def test_what_does_not_end_says_so(potential, monkeypatch):
    model = as_energy_model(potential)
    perfect = bulk("LiCl", "rocksalt", a=5.13)
    good, bad = relax_cells([perfect, rattled()], model, fmax=1e-5, max_steps=1)
    assert (good.converged, good.steps) == (True, 0)
    assert (bad.converged, bad.steps, bad.failed) == (False, 1, False)
    assert bad.problem.startswith("forces are above 1e-05 eV/Å after 1 steps (largest: ")
    with pytest.raises(NotConvergedError, match="Cl4Li4: forces are above 1e-05 eV/Å after 1 steps"):
        relaxed(rattled(), model, fmax=1e-5, max_steps=1)
    monkeypatch.setattr(cgcnn_ase.potential.relax, "MAX_VOLUME_CHANGE", 1.0 + 1e-9)
    (lost,) = relax_cells([rattled()], model, fmax=1e-3, with_cell=True)
    assert (lost.failed, lost.converged) == (True, False)
    assert "not relaxed: the volume has changed" in lost.problem
    assert (lost.atoms.positions == rattled().positions).all()


def test_models_without_forces_are_refused(small_model):
    with pytest.raises(ValueError, match=r"relaxation needs forces, and 'small-formation.*cathode-potential.*CHGNet"):
        check_forces(as_energy_model(small_model))
    with pytest.raises(ValueError, match="relaxation needs forces, and 'stored' has none"):
        relax_cells([rattled()], as_energy_model("stored"))
    for options, words in (({"fmax": 0}, "fmax must be above 0"), ({"max_steps": 0}, "at least 1, not 0")):
        with pytest.raises(ValueError, match=words):
            relax_cells([rattled()], CalculatorEnergy(EMT()), **options)
    with pytest.raises(ValueError, match=r"unknown optimizer 'BFSG'; did you mean BFGS\?"):
        relaxed(rattled(), CalculatorEnergy(EMT()), optimizer="BFSG")


def test_metals_with_u_are_those_of_the_materials_project():
    from pymatgen.io.vasp.sets import MPRelaxSet

    table = MPRelaxSet.CONFIG["INCAR"]["LDAUU"]
    assert set(table) == {"F", "O"}
    assert set(HUBBARD_METALS) == {symbol for anion in table.values() for symbol, u in anion.items() if u}
