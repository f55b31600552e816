"""Objectives against sums written out by hand."""

from math import sqrt

import pytest

from cgcnn_ase.optimization.objectives import EvaluatedCell, Objective, ObjectiveValue
from cgcnn_ase.optimization.oracles import Evaluation, OracleError
from cgcnn_ase.optimization.space.cathode_space import cathode_structure

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
