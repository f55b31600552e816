"""Chemical potentials at which a phase is stable, against pymatgen's."""

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from cgcnn_ase.stability.chemical_potentials import chemical_potentials, chemical_potentials_at
from cgcnn_ase.stability.phases import CompetingPhase, CompetingPhases, known_phases


def made(rows, scale="mp2020"):
    phases = tuple(CompetingPhase(f"p-{k}", formula, energy) for k, (formula, energy) in enumerate(rows))
    return CompetingPhases(phases, scale, "made up", "0" * 64)


def diagram(symbols, phases):
    entries = [PDEntry(Composition(symbol), 0.0) for symbol in symbols]
    system = {Element(symbol) for symbol in symbols}
    for phase in phases.phases:
        composition = Composition(phase.formula)
        if set(composition) <= system:
            entries.append(PDEntry(composition, phase.energy * composition.num_atoms))
    return PhaseDiagram(entries)


@pytest.mark.parametrize(
    ("host", "dopants"), [("LiNiO2", ()), ("NiO", ()), ("LiCoO2", ("Al",)), ("MgAl2O4", ()), ("LiFePO4", ())]
)
def test_corners_are_those_of_pymatgen(host, dopants):
    """Its simplices around the composition, which it takes as all chemical potentials at which the phase is stable."""
    symbols = sorted({element.symbol for element in Composition(host)} | set(dopants))
    phases = known_phases()
    theirs = diagram(symbols, phases).get_all_chempots(Composition(host))
    ours = chemical_potentials(host, phases, elements=dopants)
    expected = {tuple(round(mu[Element(symbol)], 3) + 0.0 for symbol in symbols) for mu in theirs.values()}
    ours_rounded = {tuple(round(one.relative[symbol], 3) + 0.0 for symbol in symbols) for one in ours}
    assert ours_rounded == expected
    highest = max(mu[Element(symbols[0])] for mu in theirs.values())
    rich = chemical_potentials_at(host, f"{symbols[0]}-rich", phases, elements=dopants)
    assert rich.relative[symbols[0]] == pytest.approx(highest, abs=1e-5)
    assert (rich.scale, rich.note, rich.host) == ("mp2020", "", host)


def test_ranges_of_pymatgen():
    """The vertices of its map of chemical potential ranges, of which the oxygen is left out."""
    phases = made([("Li2O", -2.0), ("NiO", -1.2), ("LiNiO2", -1.7)])
    (simplices,) = (
        ranges
        for entry, ranges in diagram(["Li", "Ni", "O"], phases)
        .get_chempot_range_map([Element("Li"), Element("Ni")], referenced=True)
        .items()
        if entry.composition.reduced_formula == "LiNiO2"
    )
    theirs = np.unique(np.round([vertex for simplex in simplices for vertex in simplex.coords], 4), axis=0)
    ours = np.array([[one.relative["Li"], one.relative["Ni"]] for one in chemical_potentials("LiNiO2", phases)])
    for corner in ours:
        assert np.abs(theirs - corner).sum(axis=1).min() < 1e-3


def test_binary_oxide_by_hand():
    """NiO alone at -1.2 eV/atom: from 2 * -1.2 for oxygen beside the metal to 0 beside the gas."""
    phases = made([("NiO", -1.2)])
    poor, rich = (chemical_potentials_at("NiO", f"O-{end}", phases) for end in ("poor", "rich"))
    assert poor.relative == pytest.approx({"Ni": 0.0, "O": -2.4})
    assert rich.relative == pytest.approx({"Ni": -2.4, "O": 0.0})
    assert (poor.phases, rich.phases) == (("Ni",), ("O2",)) or (poor.phases, rich.phases) == (("Ni",), ("O",))
    assert "Ni-rich" in poor.limits
    doped = chemical_potentials_at("NiO", "O-rich", made([("NiO", -1.2), ("Li2O", -2.0)]), elements=["Li"])
    assert doped.relative["Li"] == pytest.approx(-3.0)  # 2 mu(Li) + 0 = 3 * -2.0


def test_what_is_not_stable_is_said():
    phases = made([("Li2O", -2.0), ("NiO", -1.2), ("LiNiO2", -1.2)])
    one = chemical_potentials_at("LiNiO2", "Li-rich", phases)
    assert "LiNiO2 is no stable phase of these: the potentials are those at which" in one.note
    assert {"Li2O", "NiO"} <= set(one.phases)


def test_bad_input_in_words():
    with pytest.raises(ValueError, match="no limit 'Fe-rich' of NiO; allowed: elements, .*O-rich, O-poor"):
        chemical_potentials_at("NiO", "Fe-rich")
    with pytest.raises(ValueError, match="'Xx' is no element"):
        chemical_potentials("NiO", elements=["Xx"])
