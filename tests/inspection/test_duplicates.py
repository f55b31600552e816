"""Planted copies are found whatever their cell, orientation, origin and order; near-twins are not."""

import itertools

import numpy as np
import pytest
from ase.build import bulk, fcc111, make_supercell
from ase.spacegroup import crystal

from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.inspection.duplicates import Matches, MatchTolerances, find_common, find_duplicates

MGO, ZNS = bulk("MgO", "rocksalt", a=4.21), bulk("ZnS", "zincblende", a=5.41)
WURTZITE = bulk("ZnS", "wurtzite", a=3.82, c=6.26)
RUTILE = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90])
ANATASE = crystal(
    ["Ti", "O"], [(0, 0, 0), (0, 0, 0.208)], spacegroup=141, cellpar=[3.785, 3.785, 9.514, 90, 90, 90], setting=1
)


def disguised(atoms, seed, *, rattle=0.0):
    """The same crystal: in another cell, turned, shifted, its atoms in another order."""
    rng = np.random.default_rng(seed)
    copy = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])
    copy.rotate(float(rng.uniform(20, 160)), rng.normal(size=3), rotate_cell=True)
    copy.positions += rng.normal(size=3)
    if rattle:
        copy.rattle(rattle, seed=seed)
    copy.wrap()
    return copy[rng.permutation(len(copy))]


def strained(atoms, factors):
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * np.asarray(factors)[:, None], scale_atoms=True)
    return copy


def shapes(structures):
    return [geometry(atoms) for atoms in structures]


def test_planted_copies_are_found_and_near_twins_are_not():
    structures = [
        RUTILE, MGO, ZNS, ANATASE,
        disguised(RUTILE, 1), disguised(MGO, 2), disguised(ANATASE, 3, rattle=0.02), disguised(ZNS, 4),
        WURTZITE, strained(RUTILE, (1.0, 1.0, 1.25)), strained(MGO, (1.05,) * 3), bulk("MgO", "cesiumchloride", a=2.66),
    ]  # fmt: skip
    result = find_duplicates(shapes(structures))
    assert result.pairs == [(0, 4), (1, 5), (2, 7), (3, 6)]
    assert result.groups() == [[0, 4], [1, 5], [2, 7], [3, 6]]
    assert (result.not_compared, result.n_without_cell) == ({}, 0)


def test_the_order_of_the_data_set_does_not_matter():
    structures = [disguised(RUTILE, k, rattle=0.05) for k in range(4)] + [ANATASE, disguised(ANATASE, 9), MGO]
    order = np.random.default_rng(0).permutation(len(structures))
    result = find_duplicates(shapes(structures)).pairs
    again = find_duplicates(shapes([structures[k] for k in order])).pairs
    assert len(result) == 7
    assert sorted(tuple(sorted((int(order[i]), int(order[j])))) for i, j in again) == result


def test_volume_says_how_far_apart_in_size():
    twins = shapes([MGO, strained(MGO, (1.02,) * 3), strained(MGO, (1.05,) * 3)])  # 6 and 16 % in volume, 9 % between
    assert find_duplicates(twins).groups() == [[0, 1, 2]]  # each is near the next
    assert find_duplicates(twins).pairs == [(0, 1), (1, 2)]
    assert find_duplicates(twins, sameness=MatchTolerances(volume=0.2)).pairs == [(0, 1), (0, 2), (1, 2)]
    assert find_duplicates(twins, sameness=MatchTolerances(volume=0.05)).pairs == []


def test_as_pymatgen_groups_them():
    """The cheap keys lose nothing: the matcher alone, on everything, finds the same groups."""
    from pymatgen.core.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    rng = np.random.default_rng(5)
    kinds = [MGO, ZNS, WURTZITE, RUTILE, ANATASE, bulk("NiO", "rocksalt", a=4.17), bulk("Cu")]
    structures = [disguised(kinds[k], int(seed)) for seed, k in enumerate(rng.integers(0, len(kinds), 24))]
    matcher = StructureMatcher(ltol=0.1, stol=0.15, angle_tol=3)
    objects = [AseAtomsAdaptor.get_structure(atoms) for atoms in structures]
    for k, each in enumerate(objects):
        each.properties["index"] = k
    theirs = sorted(sorted(s.properties["index"] for s in g) for g in matcher.group_structures(objects) if len(g) > 1)
    assert sorted(find_duplicates(shapes(structures)).groups()) == theirs
    assert len(theirs) > 3


def test_between_two_sets_one_of_each():
    ours = [MGO, RUTILE, ZNS, disguised(RUTILE, 1)]
    others = [disguised(RUTILE, 2), strained(RUTILE, (1.01,) * 3), WURTZITE, disguised(MGO, 3), bulk("Cu")]
    result = find_common(shapes(ours), shapes(others))
    assert result.pairs == [(0, 3), (1, 0), (1, 1), (3, 0), (3, 1)]
    volumes, other_volumes = ([a.get_volume() / len(a) for a in atoms] for atoms in (ours, others))
    names = ["a", "b", "c", "d"], ["v", "w", "x", "y", "z"]
    assert result.one_to_one(*names, volumes, other_volumes) == [(0, 3), (1, 0), (3, 1)]
    same_id = ["a", "b", "c", "d"], ["d", "b", "x", "y", "z"]
    assert result.one_to_one(*same_id, volumes, other_volumes) == [(0, 3), (1, 1), (3, 0)]


def test_files_of_one_origin_match_without_the_matcher(monkeypatch):
    from pymatgen.core.structure_matcher import StructureMatcher

    def fail(*_, **__):
        raise AssertionError("not needed")

    monkeypatch.setattr(StructureMatcher, "fit", fail)
    other = RUTILE.copy()
    other.positions += other.cell.array[0] + 1e-4  # another image, rounded
    assert find_common(shapes([RUTILE]), shapes([other])).pairs == [(0, 0)]


@pytest.mark.parametrize("between", [False, True])
def test_bounded_work_and_what_was_left(between):
    """Sixteen of one formula; the number left is that of counting."""
    rng = np.random.default_rng(6)
    structures = [strained(MGO, (1 + 0.012 * rng.random(),) * 3) for _ in range(16)]
    sets = [structures[:6], structures[6:]] if between else [structures]
    find = find_common if between else find_duplicates
    bounded = find(*map(shapes, sets), sameness=MatchTolerances(volume=0.01, max_pairs=9))
    full = find(*map(shapes, sets), sameness=MatchTolerances(volume=0.01))
    volumes = [a.get_volume() for a in structures]
    count = sum(
        max(volumes[i], volumes[j]) <= 1.01 * min(volumes[i], volumes[j]) and (not between or i < 6 <= j)
        for i, j in itertools.combinations(range(16), 2)
    )
    assert 9 < count < (60 if between else 120)
    assert (full.n_compared, len(full.pairs), full.not_compared) == (count, count, {})
    assert (bounded.n_compared, bounded.not_compared) == (9, {"MgO": count - 9})


@pytest.mark.slow
def test_workers_give_the_same():
    kinds = [MGO, ZNS, RUTILE]
    structures = shapes([disguised(kinds[k % 3], k) for k in range(48)])
    one = find_duplicates(structures)
    assert len(one.pairs) == 3 * 16 * 15 // 2
    assert find_duplicates(structures, workers=2) == one


def test_slabs_are_counted_not_compared():
    slab = fcc111("Cu", (1, 1, 3), vacuum=8)
    result = find_duplicates(shapes([slab, slab, bulk("Cu"), disguised(bulk("Cu"), 0)]))
    assert (result.pairs, result.n_without_cell) == ([(2, 3)], 2)


def test_nothing_to_find():
    assert find_duplicates([]) == Matches([], 0)
    assert Matches([], 0).groups() == []
    with pytest.raises(ValueError, match="site must be above 0, not 0"):
        MatchTolerances(site=0)
