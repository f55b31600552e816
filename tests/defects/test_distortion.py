"""Local distortions: the nearest bonds as asked, everything reproducible, recorded in the manifest."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, mx2

from cgcnn_ase.defects.plan import Defect, Manifest
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.defects.refine import distorted

pytest.importorskip("shakenbreak")

MAGNESIA = bulk("MgO", "rocksalt", a=4.21)


def made(kind, **options):
    return next(point_defects(MAGNESIA, kind, min_distance=8.0, **options))


def distances(defect, positions):
    """From the defect's position to all atoms, by the nearest image."""
    from ase.geometry import find_mic

    return find_mic(positions - np.array(defect.manifest.position), defect.atoms.cell)[1]


@pytest.mark.parametrize("kind", ["vacancy", "antisite", "interstitial"])
@pytest.mark.parametrize("change", [-0.3, 0.2])
def test_bonds_are_as_asked(kind, change):
    defect = made(kind)
    result = distorted(defect, bond_distortion=change, n_neighbors=2, stdev=0.02)
    before, after = distances(defect, defect.atoms.positions), distances(defect, result.atoms.positions)
    bond = before[before > 0.1].min()
    near = np.flatnonzero((before > 0.1) & (before < bond + 0.01))
    stretched = np.isclose(after[near] / before[near], 1 + change, atol=1e-3)
    assert stretched.sum() == 2
    rest = np.setdiff1d(np.arange(len(before)), near[stretched])
    moves = np.linalg.norm(result.atoms.positions - defect.atoms.positions, axis=1)[rest]
    assert 0.02 < moves.mean() < 0.06  # ShakeNBreak: about 1.6 times the standard deviation
    assert (result.atoms.numbers == defect.atoms.numbers).all()
    assert (result.atoms.cell == defect.atoms.cell).all()


def test_the_seed_decides():
    defect = made("vacancy")
    positions = [distorted(defect, seed=seed).atoms.positions for seed in (1, 1, 2)]
    np.testing.assert_array_equal(positions[0], positions[1])
    assert np.abs(positions[0] - positions[2]).max() > 0.01


def test_it_is_recorded():
    defect = made("vacancy")
    result = distorted(defect, bond_distortion=-0.4, n_neighbors=3, stdev=0.1, seed=5)
    assert result.manifest.distortion == "-40% of 3 bonds, rattled by 0.1 Å"
    assert result.manifest.seed == 5
    assert Manifest.from_info(result.atoms.info) == result.manifest
    assert defect.manifest.distortion == Manifest.from_info(defect.atoms.info).distortion == ""


@pytest.mark.parametrize(("state", "bonds"), [(None, 2), (-2, 2), (-1, 1), (3, 3), (-6, 2)])
def test_bonds_go_by_the_missing_electrons(state, bonds):
    """The rule of ShakeNBreak: so many electrons too few or too many, eight less that from five on."""
    atoms, manifest = made("vacancy")
    result = distorted(Defect(atoms, replace(manifest, oxidation_state=state)))
    assert f" of {bonds} bonds" in result.manifest.distortion


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bond_distortion": -1.0}, "must be between -1 and 2"),
        ({"stdev": 0.0}, "must be a positive length"),
        ({"n_neighbors": 1000}, "must be between 0 and"),
    ],
)
def test_bad_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        distorted(made("vacancy"), **options)


def test_a_layer_without_a_third_cell_vector():
    with pytest.raises(ValueError, match="needs a cell vector in each direction"):
        distorted(next(point_defects(mx2("MoS2"))))


def test_without_shakenbreak(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "shakenbreak.distortions", None)
    with pytest.raises(ImportError, match="of the extra 'defects': pip install"):
        distorted(made("vacancy"))
