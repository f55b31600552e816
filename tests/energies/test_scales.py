"""Corrections by composition are those of pymatgen, and formation energies change with the elements' energies, too."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.analysis.structure_analyzer import oxide_type
from pymatgen.core import Composition
from pymatgen.entries.compatibility import (
    MaterialsProject2020Compatibility,
    MaterialsProjectCompatibility,
    PotcarCorrection,
)
from pymatgen.entries.computed_entries import ComputedEntry
from pymatgen.io.ase import AseAtomsAdaptor

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.energies.scales import convert_formation_energy, correction, element_energies

U_OF_OXIDES = {"Ni": 6.2, "Co": 3.32, "Mn": 3.9, "Fe": 5.3}
FORMULAS = {
    "Li2Ni2O4": {"Ni": 6.2}, "LiMn2O4": {"Mn": 3.9}, "NaCl": {}, "Fe2O3": {"Fe": 5.3}, "FeF3": {"Fe": 5.3}, "Li3N": {},
    "GaAs": {}, "Li2S": {}, "TiSe2": {}, "LiH": {}, "Li2O2": {}, "NaO2": {}, "CaBr2": {}, "KI": {}, "Mg2Si": {},
    "Sb2Te3": {}, "NiS": {}, "Y(Re2Si)2": {}, "SmSbPd": {}, "LiCoPO4F": {"Co": 3.32}, "Ni": {}, "O2": {},
}  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_corrections_of_2020_are_those_of_pymatgen(formula):
    parameters = {"run_type": "GGA+U" if FORMULAS[formula] else "GGA", "hubbards": FORMULAS[formula]}
    entry = ComputedEntry(Composition(formula), 0.0, parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = MaterialsProject2020Compatibility(check_potcar=False).process_entry(entry).correction
    assert correction(formula, "mp2020") == pytest.approx(expected, abs=1e-9)


def random_formulas(n=200):
    """Compounds of one or two cations with one or two anions of all kinds."""
    rng = np.random.default_rng(0)
    cations = (
        "Li",
        "Na",
        "K",
        "Mg",
        "Ca",
        "Ba",
        "Al",
        "Ti",
        "V",
        "Cr",
        "Mn",
        "Fe",
        "Co",
        "Ni",
        "Cu",
        "Zn",
        "Mo",
        "W",
        "La",
    )
    anions = ["O", "O", "O", "S", "F", "Cl", "Br", "I", "N", "Se", "Te", "H", "Si", "Sb", "P", "C"]
    for _ in range(n):
        parts = [*rng.choice(cations, rng.integers(1, 3), replace=False), *rng.choice(anions, rng.integers(1, 3))]
        yield Composition("".join(f"{each}{rng.integers(1, 5)}" for each in parts)).reduced_formula


@pytest.mark.parametrize("scale", ["mp2020", "mp-legacy"])
def test_two_hundred_compositions_of_all_anions_are_as_pymatgen_has_them(scale):
    new, old = MaterialsProject2020Compatibility(check_potcar=False), MaterialsProjectCompatibility()
    parts = [part for part in old.corrections if not isinstance(part, PotcarCorrection)]
    for formula in random_formulas():
        composition = Composition(formula)
        last = max(composition.elements, key=lambda element: element.X).symbol
        hubbards = {e.symbol: u for e in composition.elements if (u := new.u_settings.get(last, {}).get(e.symbol))}
        parameters = {"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards}
        data = {"sulfide_type": "sulfide" if _corrects_sulfur(composition) else "none"}
        entry = ComputedEntry(composition, 0.0, parameters=parameters, data=data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if scale == "mp2020":
                expected = sum(each.value for each in new.get_adjustments(entry))
            else:
                expected = sum(part.get_correction(entry).nominal_value for part in parts)
        assert correction(formula, scale) == pytest.approx(float(expected), abs=1e-6), formula


def _corrects_sulfur(composition):
    try:
        guesses = composition.oxi_state_guesses(max_sites=-20)
    except ValueError:
        return True
    return not (guesses and guesses[0].get("S", -2) > 0)


def test_published_corrections():
    # Wang et al., Sci. Rep. 11, 15496 (2021), table 1, and pymatgen's older MPCompatibility.yaml
    assert correction("NiO", "mp2020") == pytest.approx(-0.687 - 2.541)
    assert correction("NiO", "mp-legacy") == pytest.approx(-0.70229 - 2.164)
    assert correction("Li2O", "mp-legacy") == pytest.approx(-0.70229)
    assert correction("NiO", "uncorrected") == 0.0


def test_the_structure_tells_peroxides_and_sulfates():
    lithium_peroxide = Atoms("Li4O4", cell=[6, 6, 8], pbc=True, scaled_positions=[
        (0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5),
        (0.25, 0.25, 0.2), (0.25, 0.25, 0.394), (0.75, 0.75, 0.6), (0.75, 0.75, 0.794),
    ])  # fmt: skip
    assert correction("Li4O4", "mp2020", atoms=lithium_peroxide) == pytest.approx(4 * -0.465)
    assert correction("Mg4O4", "mp2020", atoms=bulk("MgO", "rocksalt", a=4.2, cubic=True)) == pytest.approx(4 * -0.687)
    assert correction("MgS", "mp2020") == pytest.approx(-0.503)
    assert correction("MgSO4", "mp2020") == pytest.approx(4 * -0.687)


def test_formation_energies_are_against_the_elements_of_the_scale():
    # the older scheme corrects the molecule, today's the compound
    old = element_energies("mp-legacy")["N"] - reference_energies()["N"]
    assert old == pytest.approx(8.33649493 - 7.95247218762)
    assert convert_formation_energy(-0.5, "Li3N", source="mp-legacy", to="mp2020") == pytest.approx(
        -0.5 + (old - 0.361) / 4
    )
    there = convert_formation_energy(-1.0, "LiNiO2", source="mp-legacy", to="mp2020")
    assert convert_formation_energy(there, "LiNiO2", source="mp2020", to="mp-legacy") == pytest.approx(-1.0)


def test_an_unknown_scale_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match="unknown scale of energies 'mp2025'.*uncorrected, mp-legacy, mp2020"):
        correction("NiO", "mp2025")


def test_every_model_of_an_energy_names_its_scale():
    from cgcnn_ase.models.registry import model_info, model_names

    scales = {name: model_info(name).scale for name in model_names() if "energy" in model_info(name).target}
    assert scales == {
        "cathode-potential": "uncorrected",
        "formation-energy-per-atom": "mp-legacy",
        "formation-energy-per-atom-alignn": "mp-legacy",
        "general-potential": "uncorrected",
        "total-energy-per-atom": "uncorrected",
        "vacancy-formation-energy": "other:witman",
        **{f"vacancy-formation-energy-{each}": f"other:{each}" for each in ("chgnet", "jarvis", "kumagai")},
    }
    assert {model_info(name).scale for name in set(model_names()) - set(scales)} == {None}


def test_two_models_of_a_total_energy_differ_by_the_corrections():
    """Both are far nearer to each other on one scale than apart, as published corrections have it."""
    atoms = bulk("NiO", "rocksalt", a=4.2)
    energies = {}
    for name in ("formation-energy-per-atom", "total-energy-per-atom"):
        calculator = CGCNNCalculator(name)
        energies[calculator.get_property("scale", atoms)] = calculator.get_potential_energy(atoms) / 2
        assert calculator.annotate(atoms).info["scale"] == calculator.results["scale"]
    apart = energies["mp-legacy"] - energies["uncorrected"]
    assert apart < -1.2
    assert apart == pytest.approx(correction("NiO", "mp-legacy") / 2, abs=0.15)


def test_the_energy_of_a_nitride_is_against_the_elements_of_its_scale():
    """A formation energy on the older scale is against its fitted nitrogen, 0.38 eV an atom above that of PBE."""
    atoms = bulk("AlN", "zincblende", a=4.36)
    calculator = CGCNNCalculator()
    energy = calculator.get_potential_energy(atoms)
    of_elements = reference_energies()["Al"] + element_energies("mp-legacy")["N"]
    assert energy == pytest.approx(2 * calculator.results["formation_energy_per_atom"] + of_elements, abs=1e-6)


def test_todays_entries_of_the_materials_project(shared_data):
    """Corrections and formation energies of all 474 entries of Li-Co-Ni-O, as the project has them."""
    folder = shared_data / "mp_li_co_ni_o_2024"
    names = ["energy_uncorrected", "correction_mp2020", "formation_energy_per_atom"]
    dataset = load_dataset(folder, target=names)
    uncorrected, corrections, formation = np.asarray(dataset.targets).T
    crystals = [Atoms(s.numbers, s.positions, cell=s.cell, pbc=True) for s in dataset.structures]
    assert len(crystals) == 474
    computed = [correction(str(crystal.symbols), "mp2020", atoms=crystal) for crystal in crystals]
    np.testing.assert_allclose(computed, corrections, atol=1e-6)
    n_atoms = np.array([len(crystal) for crystal in crystals])
    elements = {}
    for crystal, energy in zip(crystals, uncorrected / n_atoms, strict=True):
        if len(set(crystal.symbols)) == 1:
            elements[crystal.symbols[0]] = min(energy, elements.get(crystal.symbols[0], np.inf))
    of_elements = np.array([sum(elements[symbol] for symbol in crystal.symbols) for crystal in crystals])
    plain = (uncorrected - of_elements) / n_atoms
    for crystal, before, after in zip(crystals, plain.tolist(), formation.tolist(), strict=True):
        kind = oxide_type(AseAtomsAdaptor.get_structure(crystal), 1.1) if "O" in crystal.symbols else None
        converted = convert_formation_energy(
            before, str(crystal.symbols), source="uncorrected", to="mp2020", oxide_type=kind
        )
        assert converted == pytest.approx(after, abs=1e-6)
