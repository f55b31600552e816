"""Interstitials: the holes of known structures, their multiplicities, and pymatgen's generator."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2

from cgcnn_ase.defects.host import check_host, find_symmetry
from cgcnn_ase.defects.interstitials import find_holes
from cgcnn_ase.defects.point import point_defects

from .conftest import example


def holes(atoms, **options):
    host = check_host(atoms)
    return find_holes(host, find_symmetry(host), **options)


def test_holes_of_textbook_structures():
    a = 3.61
    tetrahedral, octahedral = a * np.sqrt(3) / 4, a / 2
    result = {len(hole.orbit): hole.radius for hole in holes(bulk("Cu", a=a, cubic=True))}
    assert result == {8: pytest.approx(tetrahedral), 4: pytest.approx(octahedral)}
    iron = holes(bulk("Fe", a=2.87, cubic=True))
    assert [(len(hole.orbit), hole.radius) for hole in iron] == [(12, pytest.approx(2.87 * np.sqrt(5) / 4))]
    (magnesia,) = holes(example("MgO"))
    assert len(magnesia.orbit) == 8
    assert (np.round(magnesia.frac * 4) % 2 == 1).all()  # at (1/4, 1/4, 1/4) and the like
    assert magnesia.radius == pytest.approx(4.2112 * np.sqrt(3) / 4)


@pytest.mark.parametrize("name", ["LiNiO2", "LiFePO4", "TiO2-rutile", "SrTiO3", "GaAs"])
def test_every_step_away_leads_nearer_to_an_atom(name):
    from pymatgen.io.ase import AseAtomsAdaptor

    host = example(name)
    structure = AseAtomsAdaptor.get_structure(host)
    rng = np.random.default_rng(1)
    for hole in holes(host):
        steps = rng.normal(size=(40, 3))
        steps *= 0.05 / np.linalg.norm(steps, axis=1)[:, None]
        places = np.concatenate([[hole.frac], hole.frac + steps @ np.linalg.inv(host.cell)])
        nearest = structure.lattice.get_all_distances(places, structure.frac_coords).min(axis=1)
        assert nearest[0] == pytest.approx(hole.radius, abs=1e-4)
        assert nearest[1:].max() < nearest[0] + 1e-4


@pytest.mark.parametrize("name", ["LiNiO2", "LiFePO4", "TiO2-rutile", "MgO"])
def test_multiplicities_are_those_of_the_space_group(name):
    """Every operation that pymatgen finds takes a hole to one of its orbit, and all of the orbit are reached."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    structure = AseAtomsAdaptor.get_structure(example(name))
    operations = SpacegroupAnalyzer(structure).get_symmetry_operations(cartesian=False)
    for hole in holes(example(name)):
        images = np.array([operation.operate(hole.frac) for operation in operations])
        distances = structure.lattice.get_all_distances(images, hole.orbit)
        assert distances.min(axis=1).max() < 0.05
        assert len(set(distances.argmin(axis=1))) == len(hole.orbit)


def test_the_number_does_not_depend_on_the_cell():
    primitive, cubic = bulk("Si"), bulk("Si", cubic=True)
    small, large = holes(primitive), holes(cubic)
    assert [round(hole.radius, 4) for hole in small] == [round(hole.radius, 4) for hole in large]
    assert [4 * len(hole.orbit) for hole in small] == [len(hole.orbit) for hole in large]


def test_a_very_wide_hole():
    (hole,) = holes(Atoms("Xe", cell=[20, 20, 20], pbc=True))
    assert hole.radius == pytest.approx(10 * np.sqrt(3))


def is_vertex(defect):
    """More than two atoms are the nearest: on some machines rounding leaves pymatgen the middle of a bond, too."""
    site, structure = defect.site, defect.structure
    radius = structure.lattice.get_all_distances([site.frac_coords], structure.frac_coords).min()
    return len(structure.get_sites_in_sphere(site.coords, radius + 0.3)) > 2


@pytest.mark.parametrize("name", ["MgO", "SrTiO3", "TiO2-rutile", "Si"])
def test_voronoi_is_that_of_pymatgen(name):
    from pymatgen.analysis.defects.generators import VoronoiInterstitialGenerator
    from pymatgen.io.ase import AseAtomsAdaptor

    host = example(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = list(VoronoiInterstitialGenerator().generate(AseAtomsAdaptor.get_structure(host), {"H"}))
        ours = list(
            point_defects(
                host, "interstitial", dopants=["H"], supercell=1, interstitial_method="voronoi", min_radius=0.9
            )
        )
    truth = [each for each in truth if is_vertex(each)]
    assert len(ours) == len(truth)
    lattice = truth[0].structure.lattice
    frac = np.array([manifest.position for _, manifest in ours]) @ np.linalg.inv(host.cell)
    for defect in truth:  # each of pymatgen's is an image of one of ours: the same distance to the nearest atom
        radius = lattice.get_all_distances([defect.site.frac_coords], defect.structure.frac_coords).min()
        radii = lattice.get_all_distances(frac, defect.structure.frac_coords).min(axis=1)
        assert np.abs(radii - radius).min() < 0.05


def test_graphene_has_the_hollow_on_both_sides():
    layer = graphene(vacuum=8)
    (hole,) = holes(layer)
    assert len(hole.orbit) == 2
    above = hole.frac @ check_host(layer).cell - layer.positions.mean(axis=0)
    assert abs(above[2]) == pytest.approx(1.5)
    bond = layer.get_distance(0, 1, mic=True)
    assert hole.radius == pytest.approx(np.hypot(bond, 1.5))  # over the middle of a ring


def test_molybdenite_in_a_crystal_cell_or_none():
    """The same layer with vacuum in a periodic cell, across its face, or without a third cell vector."""
    bare, padded = mx2("MoS2", vacuum=None), mx2("MoS2", vacuum=8)
    shifted = padded.copy()
    shifted.pbc = True
    shifted.positions[:, 2] -= shifted.positions[0, 2]
    shifted.wrap()
    result = [[(round(hole.radius, 3), len(hole.orbit)) for hole in holes(layer)] for layer in (bare, padded, shifted)]
    assert result[0] == result[1] == result[2]
    assert len(result[0]) >= 3


def test_no_room():
    with pytest.raises(ValueError, match="no place for an interstitial is 5 Å or more from every atom"):
        holes(bulk("Cu"), min_radius=5.0)
