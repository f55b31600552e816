"""Planted oddities are flagged with a reason, and nothing else is."""

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.inspection.outliers import Limits, ModelPredictions, find_outliers

#: published lattice parameters of rock salts, Å (Wyckoff, Crystal Structures, 1963)
SALTS = {
    "LiF": 4.027, "LiCl": 5.130, "LiBr": 5.501, "LiI": 6.000, "NaF": 4.620, "NaCl": 5.640, "NaBr": 5.973, "NaI": 6.473,
    "KF": 5.347, "KCl": 6.293, "KBr": 6.600, "KI": 7.066, "RbF": 5.640, "RbCl": 6.581, "RbBr": 6.854, "RbI": 7.342,
    "MgO": 4.211, "CaO": 4.811, "SrO": 5.160, "BaO": 5.523, "MgS": 5.200, "CaS": 5.690, "SrS": 6.020, "BaS": 6.386,
}  # fmt: skip
ENERGY = {
    "Li": -1.0, "Na": -1.1, "K": -1.3, "Rb": -1.2, "Mg": -2.0, "Ca": -2.3, "Sr": -2.2, "Ba": -2.1,
    "F": -4.8, "Cl": -3.0, "Br": -2.5, "I": -2.0, "O": -4.0, "S": -2.8,
}  # fmt: skip


def salts(n=3):
    """A data set of rock salts, each n times with a little noise in volume and energy."""
    rng = np.random.default_rng(0)
    names = list(SALTS) * n
    atoms = [bulk(name, "rocksalt", a=SALTS[name] * rng.normal(1, 0.004), cubic=True) for name in names]
    energy = [sum(ENERGY[s] for s in a.symbols) / len(a) + rng.normal(0, 0.03) for a in atoms]
    return names, atoms, np.array(energy)


def table(names, atoms, **columns):
    ids = [f"{name}-{k}" for k, name in enumerate(names)]
    return Dataset(ids, [geometry(a) for a in atoms], np.zeros((len(ids), 0)), columns=pd.DataFrame(columns))


def flagged(result):
    return {(outlier.id, outlier.kind) for outlier in result.entries}


def test_nothing_is_flagged_where_nothing_is_wrong():
    names, atoms, energy = salts()
    result = find_outliers(table(names, atoms, energy=energy), "energy")
    assert (result.entries, result.not_judged) == ([], [])


def test_planted_labels_and_structures():
    names, atoms, energy = salts()
    energy[3] = 40.0  # beyond all values
    energy[7] += 1.0  # among the values, not for NaI
    atoms[20].set_cell(atoms[20].cell * 1.8, scale_atoms=True)
    atoms[30].positions[1] = atoms[30].positions[0] + [0, 0, 1.0]
    result = find_outliers(table(names, atoms, energy=energy), "energy")
    assert flagged(result) == {
        ("LiI-3", "value"), ("LiI-3", "composition"), ("NaI-7", "composition"),
        ("MgS-20", "volume"), ("NaBr-30", "distance"),
    }  # fmt: skip
    reasons = {(o.id, o.kind): o.reason for o in result.entries}
    assert reasons["LiI-3", "value"].startswith("energy is 40, ")
    assert "robust standard deviations from the median" in reasons["LiI-3", "value"]
    assert reasons["NaI-7", "composition"].startswith(f"energy is {energy[7]:.4g} where its elements suggest -1.5")
    assert "Na and " in reasons["NaBr-30", "distance"]
    assert "are 1.00 Å apart" in reasons["NaBr-30", "distance"]
    assert all(o.score > 1 for o in result.entries)
    assert [o.score for o in result.entries] == sorted((o.score for o in result.entries), reverse=True)


def test_the_shortest_distance_is_that_of_ase():
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    rng = np.random.default_rng(1)
    names, atoms, energy = salts(1)
    for each in atoms:
        each.positions += rng.normal(0, 0.12, each.positions.shape)
    limit = 0.9
    result = find_outliers(table(names, atoms, energy=energy), limits=Limits(distance=limit))
    ours = {o.id: o.score for o in result.entries if o.kind == "distance"}
    theirs = {}
    for k, each in enumerate(atoms):
        i, j, d = neighbor_list("ijd", each, 5.0)
        ratio = (d / (covalent_radii[each.numbers[i]] + covalent_radii[each.numbers[j]])).min()
        if ratio < limit:
            theirs[f"{names[k]}-{k}"] = limit / ratio
    assert ours == pytest.approx(theirs)
    assert 3 < len(theirs) < len(atoms)


def test_against_a_model():
    names, atoms, energy = salts()
    prediction = ModelPredictions("made-up", energy + 0.02, np.full(len(energy), 0.05), ("x: why",))
    prediction.mean[5] -= 0.5
    prediction.mean[6] = np.nan
    result = find_outliers(table(names, atoms, energy=energy), "energy", model=prediction)
    assert result.not_judged == ["1 structures by made-up, such as x: why"]
    (outlier,) = result.entries
    assert (outlier.id, outlier.kind) == ("NaCl-5", "model")
    assert outlier.score == pytest.approx(0.48 / 0.05 / 5)
    assert "made-up says" in outlier.reason
    assert outlier.reason.endswith("9.6 standard deviations")


def test_what_cannot_be_judged_is_said():
    names, atoms, energy = salts(1)
    gap = np.where(np.arange(len(names)) % 3 == 0, 1.5, 0.0)
    result = find_outliers(table(names[:6], atoms[:6], gap=gap[:6]), "gap")
    assert result.not_judged == [
        "volumes: too few structures for the elements they have",
        "the values of gap by themselves: there are 6, fewer than 10",
        "gap against its elements: too few structures for the elements they have",
    ]
    result = find_outliers(table(names, atoms, gap=gap), "gap")
    assert "the values of gap by themselves: at least half of them are 0" in result.not_judged
    sums = [sum(ENERGY[s] for s in a.symbols) / len(a) for a in atoms] * 3
    result = find_outliers(table(names * 3, atoms * 3, energy=[*sums[:-1], 7.0]), "energy")
    assert result.not_judged == ["energy against its elements: at least half of the values are a plain sum over them"]
    assert flagged(result) == {("BaS-71", "value")}


def test_bad_input():
    names, atoms, energy = salts(1)
    with pytest.raises(DatasetError, match="no column 'gap'; allowed: energy"):
        find_outliers(table(names, atoms, energy=energy), "gap")
    with pytest.raises(ValueError, match="limit of model must be above 0, not -1"):
        Limits(model=-1)
