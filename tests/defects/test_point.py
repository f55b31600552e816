"""Point defects: as many as pymatgen-analysis-defects finds, each one change from the host, and quickly."""

import time
import warnings
from itertools import islice

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, mx2

from cgcnn_ase.defects.plan import Manifest
from cgcnn_ase.defects.point import point_defects

from .conftest import EXAMPLES, example

NAMES = sorted(path.stem for path in EXAMPLES.iterdir() if path.suffix != ".md")


def by_pymatgen(host):
    """Name and multiplicity of vacancies, antisites and substitutions by xenon."""
    from pymatgen.analysis.defects.generators import AntiSiteGenerator, SubstitutionGenerator, VacancyGenerator
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = AseAtomsAdaptor.get_structure(host)
    elements = list(dict.fromkeys(host.get_chemical_symbols()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = {
            "vacancy": VacancyGenerator().generate(structure),
            "antisite": AntiSiteGenerator().generate(structure),
            "substitution": SubstitutionGenerator().generate(structure, dict.fromkeys(elements, "Xe")),
        }
        return {kind: sorted((d.name, d.multiplicity) for d in defects) for kind, defects in result.items()}


def by_us(host):
    several = len(set(host.numbers)) > 1
    kinds = ["vacancy", "antisite", "substitution"] if several else ["vacancy", "substitution"]
    result = {"vacancy": [], "antisite": [], "substitution": []}
    for _, manifest in point_defects(host, kinds, dopants=["Xe"], supercell=2):
        result[manifest.kind].append((manifest.defect, manifest.multiplicity))
    return {kind: sorted(defects) for kind, defects in result.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_pymatgen(name):
    assert by_us(example(name)) == by_pymatgen(example(name))


@pytest.mark.slow
def test_the_same_as_pymatgen_on_fifty_materials(shared_data):
    data = np.load(shared_data / "mp36k" / "structures.npz")
    offsets = data["offsets"]
    small = np.flatnonzero(np.diff(offsets) <= 30)
    for i in small[np.linspace(0, len(small) - 1, 50).astype(int)]:
        rows = slice(offsets[i], offsets[i + 1])
        host = Atoms(data["numbers"][rows], scaled_positions=data["frac"][rows], cell=data["lattice"][i], pbc=True)
        assert by_us(host) == by_pymatgen(host), data["ids"][i]


@pytest.mark.parametrize("name", NAMES)
def test_multiplicities_add_up_to_the_sites(name):
    host = example(name)
    symbols = host.get_chemical_symbols()
    totals = dict.fromkeys(symbols, 0)
    for _, manifest in point_defects(host):
        totals[manifest.removed[0]] += manifest.multiplicity
        assert symbols[manifest.site_index] == manifest.removed[0]
    assert totals == {symbol: symbols.count(symbol) for symbol in totals}


def test_wyckoff_letters_of_known_structures():
    letters = {m.defect: (m.wyckoff, m.multiplicity) for _, m in point_defects(example("SrTiO3"))}
    assert letters == {"v_Ti": ("a", 1), "v_Sr": ("b", 1), "v_O": ("d", 3)}
    assert sorted(m.wyckoff for _, m in point_defects(example("LiFePO4"))) == ["a", "c", "c", "c", "c", "d"]


@pytest.mark.parametrize("supercell", [2, (3, 3, 1), [[2, 1, 0], [-1, 2, 0], [0, 0, 1]]])
def test_one_change_and_nothing_else(lithium_nickelate, supercell):
    from cgcnn_ase.defects.host import check_host
    from cgcnn_ase.defects.supercell import make_supercell

    whole = make_supercell(check_host(lithium_nickelate), supercell).atoms
    kinds = ["vacancy", "antisite", "substitution", "interstitial"]
    for atoms, manifest in point_defects(lithium_nickelate, kinds, dopants=["Mg"], supercell=supercell):
        expected = whole.copy()
        if manifest.kind == "interstitial":
            assert (manifest.site_index, manifest.sites) == (None, ())
            np.testing.assert_allclose(atoms.positions[-1], manifest.position, atol=1e-5)
            assert atoms.symbols[-1] == manifest.added[0]
            expected.append(atoms[-1])
        else:
            (site,) = manifest.sites
            assert site == manifest.site_index  # the first copy of the host comes first
            np.testing.assert_allclose(whole.positions[site], manifest.position, atol=1e-5)
            assert whole.symbols[site] == manifest.removed[0]
            if manifest.added:
                expected.symbols[site] = manifest.added[0]
            else:
                del expected[site]
        assert (atoms.numbers == expected.numbers).all()
        np.testing.assert_array_equal(atoms.positions, expected.positions)
        np.testing.assert_allclose(
            atoms.cell.array, np.array(manifest.supercell).reshape(3, 3) @ lithium_nickelate.cell
        )
        assert Manifest.from_info(atoms.info) == manifest


def test_the_host_is_left_alone(lithium_nickelate):
    before = lithium_nickelate.copy()
    list(point_defects(lithium_nickelate, ["vacancy", "interstitial"], supercell=1))
    assert lithium_nickelate == before
    assert not lithium_nickelate.info.keys() - before.info.keys()


def test_chosen_elements_and_dopants(lithium_nickelate):
    def names(*args, **options):
        return sorted({m.defect for _, m in point_defects(lithium_nickelate, *args, supercell=1, **options)})

    assert names("vacancy", elements=["Li"]) == ["v_Li"]
    assert names("antisite", elements=["Li"]) == ["Ni_Li", "O_Li"]
    assert names("substitution", elements=["Ni", "Li"], dopants=["Al", "Mg"]) == ["Al_Li", "Al_Ni", "Mg_Li", "Mg_Ni"]
    assert names("interstitial", elements=["Li"]) == ["Li_i"]
    assert names("interstitial", elements=["Li"], dopants=["H"]) == ["H_i"]


def test_a_large_cell_without_symmetry_is_quick(layered_108):
    list(point_defects(bulk("Cu"), supercell=2))  # spglib imported
    start = time.perf_counter()
    result = list(point_defects(layered_108, elements=["Li"], supercell=1))
    assert time.perf_counter() - start < 1.0  # 0.01 s on an idle machine
    assert [m.multiplicity for _, m in result] == [1] * 27
    assert {len(atoms) for atoms, _ in result} == {107}


def test_thousands_come_one_by_one(layered_108):
    """Nothing is made before it is asked for: the first few of 108 sites × 90 dopants."""
    from cgcnn_ase.core.elements import symbols

    dopants = [symbol for symbol in symbols()[1:95] if symbol not in ("Li", "O")]
    result = point_defects(layered_108, "substitution", dopants=dopants, supercell=2)
    start = time.perf_counter()
    assert len(list(islice(result, 20))) == 20
    assert time.perf_counter() - start < 2.0  # all would take about 10 s


@pytest.mark.parametrize("supercell", [(2, 2, 1), (6, 6, 1)])
@pytest.mark.parametrize("layer", [mx2("MoS2", vacuum=8), mx2("MoS2", vacuum=None), graphene(vacuum=8)])
def test_layers(layer, supercell):
    kinds = ["vacancy", "substitution", "interstitial"]
    n_cells = supercell[0] * supercell[1]
    low, high = layer.positions[:, 2].min(), layer.positions[:, 2].max()
    result = list(point_defects(layer, kinds, dopants=["Al"], supercell=supercell))
    assert {m.kind for _, m in result} == set(kinds)
    for atoms, manifest in result:
        change = {"vacancy": -1, "substitution": 0, "interstitial": 1}[manifest.kind]
        assert len(atoms) == n_cells * len(layer) + change
        assert low - 1.6 <= manifest.position[2] <= high + 1.6
        assert manifest.image_distance == pytest.approx(supercell[0] * np.linalg.norm(layer.cell[0]))
        assert (atoms.pbc == layer.pbc).all()
        assert (atoms.cell[2] == layer.cell[2]).all()


@pytest.mark.parametrize(
    ("host", "arguments", "words"),
    [
        (bulk("Cu"), {"kinds": "hole"}, "unknown kind 'hole'; allowed: vacancy, antisite"),
        (bulk("Cu"), {"kinds": ()}, "no kind of defect"),
        (bulk("Cu"), {"elements": ["Li"]}, "copper has no Li; its elements are Cu"),
        (bulk("Cu"), {"elements": []}, "no element is given"),
        (bulk("Cu"), {"supercell": 1}, "the supercell of copper has one atom"),
        (bulk("Cu"), {"kinds": "antisite"}, "copper has one element only, Cu"),
        (bulk("Cu"), {"kinds": "substitution"}, "substitution needs dopants"),
        (bulk("Cu"), {"kinds": "substitution", "dopants": ["Cu"]}, "changes nothing"),
        (bulk("Cu"), {"kinds": "interstitial", "dopants": ["Foo"]}, "dopant 'Foo': is no symbol of an element"),
        (bulk("Cu"), {"kinds": "interstitial", "interstitial_method": "guess"}, "allowed: holes, voronoi"),
    ],
)
def test_bad_input_is_told_at_once(host, arguments, words):
    with pytest.raises(ValueError, match=words):
        point_defects(host, name="copper", **arguments)  # before anything is taken from it


def test_a_supercell_of_any_shape_has_each_site_of_the_crystal_once():
    """Olivine has six distinct sites; the compact supercell of 112 atoms breaks its symmetry."""
    from cgcnn_ase.cathodes import build_cathode

    host = build_cathode("LiFePO4", n_atoms=100)
    manifests = [defect.manifest for defect in point_defects(host, supercell=1)]
    assert [manifest.defect for manifest in manifests] == ["v_Li", "v_Fe", "v_P", "v_O", "v_O", "v_O"]
    assert sum(manifest.multiplicity for manifest in manifests) == len(host) == 112
