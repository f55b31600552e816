"""Charge states: those that textbooks and doped's own generator give."""

import pytest
from ase.build import bulk

from cgcnn_ase.defects.plan import Manifest
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.defects.refine import with_charges

pytest.importorskip("doped")


@pytest.fixture(scope="module")
def magnesia():
    host = bulk("MgO", "rocksalt", a=4.21)
    kinds = ["vacancy", "antisite", "substitution", "interstitial", "complex"]
    defects = point_defects(host, kinds, dopants=["Al"], elements=["Mg", "O"], min_distance=8.0, cutoff=3.0)
    return list(with_charges(defects, host))


def test_formal_charges_are_among_them(magnesia):
    by_name = {manifest.defect: manifest for _, manifest in magnesia}
    formal = {"v_Mg": -2, "v_O": 2, "O_Mg": -4, "Mg_O": 4, "Al_Mg": 1, "Al_i": 3}
    for name, charge in formal.items():
        assert by_name[name].oxidation_state == charge
        assert {0, charge} <= set(by_name[name].charges)
        assert by_name[name].charge == 0


@pytest.mark.slow
def test_the_same_as_the_generator_of_doped(magnesia):
    from doped.generation import DefectsGenerator
    from pymatgen.core import Lattice, Structure

    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    truth = DefectsGenerator(
        structure, extrinsic="Al", interstitial_coords=[[0.25, 0.25, 0.25]], generate_supercell=False, processes=1
    )
    charges = {}
    for name, entry in truth.defect_entries.items():
        charges.setdefault(name.rpartition("_")[0].split("_Td")[0], set()).add(entry.charge_state)
    for _, manifest in magnesia:
        if manifest.kind in ("vacancy", "antisite", "substitution"):
            assert set(manifest.charges) == charges[manifest.defect]


def test_they_are_in_the_structures_too(magnesia):
    for atoms, manifest in magnesia:
        assert Manifest.from_info(atoms.info) == manifest


def test_complexes_pass_as_they_are(magnesia):
    complexes = [manifest for _, manifest in magnesia if manifest.kind == "complex"]
    assert complexes
    assert all(m.charges == () and m.oxidation_state is None for m in complexes)


def test_without_doped(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "doped.core", None)
    with pytest.raises(ImportError, match="of the extra 'defects': pip install"):
        with_charges([], bulk("Cu"))
