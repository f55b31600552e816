"""Structure resources as atoms, against the adapters of the reference implementation, and the refusals."""

import numpy as np
import pytest
from ase.build import molecule, mx2

from cgcnn_ase.sources.optimade.structures import to_atoms
from cgcnn_ase.structures import StructureError

from ..optimade_reference import crystals, document

CRYSTALS = crystals()


@pytest.fixture
def oxide():
    """MgO, as a server sends it."""
    return document("MgO", CRYSTALS["MgO"])


def species(name="Mg", symbols=("Mg",), shares=(1.0,), **more):
    return {"name": name, "chemical_symbols": list(symbols), "concentration": list(shares), **more}


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_come_back(name):
    result = to_atoms(name, document(name, CRYSTALS[name]))
    assert result.get_chemical_symbols() == CRYSTALS[name].get_chemical_symbols()
    np.testing.assert_allclose(result.positions, CRYSTALS[name].positions, atol=1e-12)
    np.testing.assert_allclose(result.cell.array, CRYSTALS[name].cell.array, atol=1e-12)
    assert result.pbc.all()


def test_layers_and_molecules():
    layer = mx2("MoS2", vacuum=10)
    layer.pbc = [True, True, False]
    sent = document("MoS2", layer)
    sent["lattice_vectors"][2] = [None, None, None]
    result = to_atoms("MoS2", sent)
    assert result.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(result.cell.array[:2], layer.cell.array[:2])
    water = document("H2O", molecule("H2O"))
    water["lattice_vectors"] = None
    assert not to_atoms("H2O", water).pbc.any()


def test_species_may_have_names_of_their_own(oxide):
    oxide["species"] = [species("Mg2+", ["Mg"]), species("anion", ["O"])]
    oxide["species_at_sites"] = ["Mg2+", "anion"]
    assert to_atoms("MgO", oxide).get_chemical_symbols() == ["Mg", "O"]


def test_what_may_be_left_out(oxide):
    for name in ("species", "dimension_types", "structure_features", "assemblies", "nsites"):
        oxide.pop(name, None)
    result = to_atoms("MgO", oxide)
    assert result.get_chemical_symbols() == ["Mg", "O"]
    assert result.pbc.all()


def test_a_whole_atom_may_be_written_with_a_rounding_error(oxide):
    oxide["species"][0] = species("Mg", ["Mg", "vacancy"], [0.99999, 0.00001])
    assert to_atoms("MgO", oxide).get_chemical_symbols() == ["Mg", "O"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"species": [species(symbols=["Mg", "Ca"], shares=[0.5, 0.5])]}, "species 'Mg' is Mg 0.5 Ca 0.5"),
        ({"species": [species(shares=[0.9])]}, "partially occupied sites: species 'Mg' is Mg 0.9"),
        ({"species": [species(symbols=["Mg", "vacancy"], shares=[0.8, 0.2])]}, "'Mg' is a vacancy to 0.2"),
        ({"species": [species(symbols=["vacancy"])]}, "is a vacancy to 1"),
        ({"species": [species(symbols=["X"])]}, "of unknown element"),
        ({"species": [species(symbols=["Mg"], shares=[0.5, 0.5])]}, "has 1 elements and 2 concentrations"),
        ({"species": [species(nattached=[2], attached=["H"])]}, "atoms attached to sites"),
        ({"species_at_sites": ["Mg", "oxide"]}, "species 'oxide' is none of its species and no element"),
        ({"species_at_sites": []}, "sends no species_at_sites"),
        ({"structure_features": ["disorder"]}, "has partially occupied sites"),
        ({"structure_features": ["assemblies"]}, "occupied in groups by chance"),
        ({"structure_features": ["implicit_atoms"]}, "atoms without positions"),
        ({"assemblies": [{"sites_in_groups": [[0], [1]], "group_probabilities": [0.5, 0.5]}]}, "assemblies"),
        ({"cartesian_site_positions": None}, "sends no cartesian_site_positions"),
        ({"cartesian_site_positions": [[0, 0, 0]]}, r"of shape \(1, 3\); needed is \(2, 3\)"),
        ({"cartesian_site_positions": [[0, 0, 0], [1, 1, None]]}, "are not all known"),
        ({"cartesian_site_positions": [[0, 0, 0], [1, 1]]}, "are no table of numbers"),
        ({"cartesian_site_positions": [[0, 0, 0], [0, 0, 0.1]]}, "overlap"),
        ({"lattice_vectors": None}, "sends no lattice_vectors"),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0], None]}, "lattice_vectors are not all known"),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0], [4, 4, 0]]}, "no volume"),
        ({"dimension_types": [1, 1]}, r"dimension_types are \[1, 1\]"),
    ],
)
def test_what_plain_atoms_cannot_hold_is_refused(oxide, change, words):
    with pytest.raises(StructureError, match=words) as raised:
        to_atoms("mgo-7", oxide | change)
    assert raised.value.source == "mgo-7"
