"""Objectives against sums written out by hand."""

import json
from math import sqrt

import pytest

from cgcnn_ase.energies.scales import correction, element_energies
from cgcnn_ase.optimization.config import ObjectiveSettings
from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.objectives import EvaluatedCell, Objective, ObjectiveValue
from cgcnn_ase.optimization.oracles import Evaluation, OracleError
from cgcnn_ase.optimization.oracles.calculators import StabilityOracle
from cgcnn_ase.optimization.space.cathode_space import cathode_structure
from cgcnn_ase.stability.predictor import stability

REFERENCES = {"Li": -1.9, "Ni": -5.8, "Co": -7.1, "O": -4.9}
POINT = {"li_vacancy_ratio": 0.25, "ni_content": 0.75, "co_content": 0.25, "ordering_seed": 0}
MIXED = ("ni_content", "co_content")
HOST = {"host": "LiNiO2", "supercell": (2, 2, 1)}


def cell(point, energy, std=None):
    stds = {} if std is None else {"energy": std}
    return EvaluatedCell(point, cathode_structure(point, **HOST), Evaluation({"energy": energy}, stds))


def test_formation_energy():
    result = Objective("formation_energy_per_atom").value({"itself": cell(POINT, -250.0, 0.9)}, REFERENCES)
    # 12 formula units without 3 of 12 lithium: Li9 Ni9 Co3 O24
    expected = (-250.0 - 9 * -1.9 - 9 * -5.8 - 3 * -7.1 - 24 * -4.9) / 45
    assert result == ObjectiveValue(pytest.approx(expected), pytest.approx(0.9 / 45))
    with pytest.raises(OracleError, match="those of Co are not known: give `references`"):
        Objective("formation_energy_per_atom").value({"itself": cell(POINT, -250.0)}, {"Li": 0, "Ni": 0, "O": 0})


def test_voltage():
    objective = Objective("voltage", "max")
    needed = objective.needs(POINT)
    assert needed == {"itself": POINT, "lithiated": POINT | {"li_vacancy_ratio": 0.0}}
    # three lithium leave, each taking 3.7 eV more than the metal holds it with
    cells = {
        "lithiated": cell(needed["lithiated"], -300.0, 0.3),
        "itself": cell(POINT, -300.0 + 3 * (1.9 + 3.7), 0.4),
    }
    result = objective.value(cells, REFERENCES)
    assert result.value == pytest.approx(3.7)
    assert result.std == pytest.approx(sqrt(0.3**2 + 0.4**2) / 3)
    # the metals are where they were: only lithium has left
    full, partial = (cells[name].atoms for name in ("lithiated", "itself"))
    kept = [(a.symbol, tuple(a.position.round(6))) for a in partial]
    assert set(kept) < {(a.symbol, tuple(a.position.round(6))) for a in full}
    with pytest.raises(OracleError, match="needs the energy of lithium metal"):
        objective.value(cells, None)


def test_mixing_energy():
    objective = Objective("mixing_energy_per_atom", mixed=MIXED)
    needed = objective.needs(POINT)
    assert needed["ni_content"] == POINT | {"ni_content": 1.0, "co_content": 0.0}
    assert needed["co_content"] == POINT | {"ni_content": 0.0, "co_content": 1.0}
    energies = {"itself": -251.0, "ni_content": -240.0, "co_content": -280.0}
    cells = {name: cell(point, energies[name], 0.45) for name, point in needed.items()}
    result = objective.value(cells)
    assert result.value == pytest.approx((-251.0 - 0.75 * -240.0 - 0.25 * -280.0) / 45)
    assert result.std == pytest.approx(0.01 * sqrt(1 + 0.75**2 + 0.25**2))
    # an end member mixes with nothing
    end = needed["ni_content"]
    assert objective.needs(end) == {"itself": end, "ni_content": end}
    assert objective.value({"itself": cell(end, -240.0), "ni_content": cell(end, -240.0)}).value == 0.0


def test_what_the_oracle_says_itself():
    evaluation = Evaluation({"band_gap": 1.2, "voltage": 3.9}, {"band_gap": 0.1})
    one = {"itself": EvaluatedCell(POINT, None, evaluation)}
    assert Objective("band_gap").value(one) == ObjectiveValue(1.2, 0.1)
    assert Objective("voltage").value(one) == ObjectiveValue(3.9, None)
    with pytest.raises(OracleError, match="gave no bulk_modulus, only band_gap, voltage"):
        Objective("bulk_modulus").value(one)
    with pytest.raises(OracleError, match="gave no energy"):
        Objective("energy_per_atom").value(one)
    without = {"itself": EvaluatedCell(POINT, None, Evaluation({"energy": 1.0}))}
    with pytest.raises(OracleError, match="the configuration makes none"):
        Objective("energy_per_atom").value(without)


# Energy above the hull

FORMATION = {"Li2O": -2.0, "NiO": -1.2, "LiNiO2": -1.1}  # eV/atom


@pytest.fixture
def entries(tmp_path):
    """Entries of Li-Ni-O in pymatgen's form, their elements at 0 eV, and the diagram that pymatgen makes of them."""
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Composition
    from pymatgen.entries.computed_entries import ComputedEntry

    listed = [ComputedEntry(symbol, 0.0, entry_id=symbol) for symbol in ("Li", "Ni", "O")]
    listed += [ComputedEntry(f, e * Composition(f).num_atoms, entry_id=f) for f, e in FORMATION.items()]
    file = tmp_path / "entries.json"
    file.write_text(json.dumps([entry.as_dict() for entry in listed]))
    return file, PhaseDiagram(listed)


def above_hull(diagram, atoms, formation_energy):
    from pymatgen.entries.computed_entries import ComputedEntry

    entry = ComputedEntry(str(atoms.symbols), formation_energy * len(atoms))
    return diagram.get_decomp_and_e_above_hull(entry, allow_negative=True)[1]


def test_energies_of_an_oracle_above_the_hull(entries):
    file, diagram = entries
    objective = Objective("e_above_hull", entries=str(file))
    point = POINT | {"ni_content": 1.0, "co_content": 0.0}
    one = {"itself": cell(point, -250.0, 0.9)}
    atoms = one["itself"].atoms
    for scale in ("mp2020", "uncorrected"):
        pure = element_energies(scale)
        total = -250.0 + (correction(str(atoms.symbols), "mp2020") if scale == "uncorrected" else 0.0)
        formation = (total - sum(pure[symbol] for symbol in atoms.symbols)) / len(atoms)
        result = objective.value(one, None, scale)
        assert result.value == pytest.approx(above_hull(diagram, atoms, formation), abs=1e-6)
        assert result.std == pytest.approx(0.9 / len(atoms))
    of_formation = {"itself": one["itself"]._replace(evaluation=Evaluation({"formation_energy_per_atom": -1.0}))}
    assert objective.value(of_formation, None, "mp2020").value == pytest.approx(above_hull(diagram, atoms, -1.0))
    of_oracle = {"itself": EvaluatedCell(point, None, Evaluation({"e_above_hull": 0.3, "p_stable": 0.1}))}
    assert objective.value(of_oracle) == ObjectiveValue(0.3, None)
    assert Objective("p_stable", "max").value(of_oracle).value == 0.1
    # what an evaluation states of itself comes before what the oracle states
    stated = cell(point, -250.0)
    for scale, expected in (("uncorrected", "uncorrected"), (None, "mp2020")):
        one_of = {"itself": stated._replace(evaluation=Evaluation({"energy": -250.0}, {}, {"scale": scale}))}
        assert (
            objective.value(one_of, None, "mp2020").value == objective.value({"itself": stated}, None, expected).value
        )
    other = {"itself": stated._replace(evaluation=Evaluation({"energy": -250.0}, {}, {"scale": "other:gpaw PBE"}))}
    words = (
        "the oracle's energies are on the scale other:gpaw PBE, those of the competing phases on mp2020, and energies"
    )
    with pytest.raises(OracleError, match=words):
        objective.value(other, None, "uncorrected")
    with pytest.raises(OracleError, match="the scale of the oracle's energies is not known"):
        objective.value(one)
    with pytest.raises(OracleError, match="name a model of the formation energy"):
        Objective("p_stable", "max").value(one, None, "mp2020")


def test_a_run_has_the_rows_of_stability(entries, small_model, tmp_path, monkeypatch):
    """Value and std of each point as ``stability`` gives them, which the surrogate is told; the hull as pymatgen's."""
    file, diagram = entries
    asked, evaluate = [], StabilityOracle.evaluate
    monkeypatch.setattr(StabilityOracle, "evaluate", lambda *args: asked.append(1) or evaluate(*args))
    of_hull = {"model": str(small_model), "entries": file.name}
    config = {
        "space": {
            "host": "LiNiO2",
            "supercell": [2, 1, 1],
            "variables": {"ni_content": [1.0, 1.0], "li_vacancy_ratio": [0.0, 0.5], "ordering_seed": 2},
        },
        "objectives": [{"name": "e_above_hull", **of_hull}, {"name": "p_stable", "within": 0.1, **of_hull}],
        "oracle": {"name": "model", "model": str(small_model)},
        "budget": {"evaluations": 5, "initial": 3},
        "relax": False,
    }
    result = optimise(config, tmp_path / "run", folder=tmp_path)
    assert [record.status for record in result.records] == ["done"] * 5
    assert len(asked) == 5  # one prediction for both objectives
    cells = [cathode_structure(r.point, host="LiNiO2", supercell=(2, 1, 1)) for r in result.records]
    rows = stability(cells, small_model, entries=file, within=0.1).all
    for record, row, atoms in zip(result.records, rows, cells, strict=True):
        assert record.values["e_above_hull"] == pytest.approx(row.e_above_hull, abs=1e-6)
        assert record.stds["e_above_hull"] == pytest.approx(row.e_above_hull_std, abs=1e-6)
        assert record.values["p_stable"] == pytest.approx(row.p_stable, abs=1e-6)
        above = above_hull(diagram, atoms, row.formation_energy_per_atom)
        assert record.values["e_above_hull"] == pytest.approx(above, abs=1e-6)
    described = json.loads((tmp_path / "run" / "oracle.json").read_text())["models"]["p_stable"]
    assert (described["within"], described["hull_sha256"]) == (0.1, rows[0].hull_sha256)
    again = optimise(
        config | {"budget": {"evaluations": 6, "initial": 3}}, tmp_path / "run", folder=tmp_path, resume=True
    )
    assert [record.values for record in again.records[:5]] == [record.values for record in result.records]


def test_settings_of_a_hull_in_words(entries):
    file, _ = entries

    def objective_of(**objective):
        return ObjectiveSettings(**objective).objective((), file.parent)

    assert objective_of(name="p_stable").goal == "max"
    assert objective_of(name="e_above_hull").goal == "min"
    with pytest.raises(ValueError, match="entries and within are of e_above_hull and p_stable, not of voltage"):
        objective_of(name="voltage", within=0.1)
    with pytest.raises(FileNotFoundError, match="missing.json"):
        _ = objective_of(name="e_above_hull", entries="missing.json").hull
