"""The choice of structures to compute, the comparison with labels, and the merging of labelled sets."""

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402

from aiida_plugin.calculations.functions.labels import merge_labelled  # noqa: E402
from aiida_plugin.calculations.functions.predictions import learning_report, prediction_errors, select  # noqa: E402
from aiida_plugin.data.predictions import PredictionsData  # noqa: E402
from aiida_plugin.data.structures import StructureSetData  # noqa: E402

IDS = ["a", "b", "c", "d", "e"]
VALUES = [0.3, -0.2, 0.1, 0.0, -0.1]
STDS = [0.1, 0.05, 0.6, 0.0, 0.3]


def predictions(ids=IDS, values=VALUES, stds=STDS, in_domain=(True, False, True, True, True), **fields):
    n = len(ids)
    columns = {
        "id": list(ids), "formula": ["Al"] * n, "n_atoms": [1] * n, "value": list(values), "std": list(stds),
        "lower": [v - 0.15 for v in values], "upper": [v + 0.15 for v in values], "epistemic": list(stds),
        "aleatoric": list(stds), "in_domain": list(in_domain)[:n], "reason": [""] * n,
    }  # fmt: skip
    same = {"unit": "eV/atom", "property": "energy_per_atom", "model": "m", "model_sha256": "0" * 64}
    return PredictionsData(columns, **(same | fields)).store()


def labelled(ids, energies, scheme=None):
    structures = []
    for k, energy in enumerate(energies):
        atoms = bulk("Al", a=4.0 + 0.01 * k)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        if scheme is not None:
            atoms.info["label_scheme"] = scheme
        structures.append(atoms)
    return StructureSetData.from_ase(structures, list(ids)).store()


def chosen(settings, **inputs):
    result = select(predictions(), orm.Dict(settings), **inputs)
    rows = result["chosen"]["rows"]
    assert result["indices"].get_list() == [row["id"] for row in rows]
    return [(row["id"], row["why"]) for row in rows]


def test_best_and_least_certain_none_twice():
    take = {"best": 2, "uncertain": 2}
    assert chosen({"take": take}) == [("b", "best"), ("e", "best"), ("c", "uncertain"), ("a", "uncertain")]
    assert chosen({"take": {"best": 1}, "goal": "max"}) == [("a", "best")]
    # lower bounds: 0.1, -0.3, -1.1, 0.0, -0.7
    assert chosen({"take": {"lcb": 3}}) == [("c", "lcb"), ("e", "lcb"), ("b", "lcb")]


def test_what_is_passed_over():
    assert chosen({"take": {"best": 1}, "in_domain": True}) == [("e", "best")]
    done = labelled(["b", "e"], [0.0, 0.0])
    assert chosen({"take": {"best": 9}}, labelled=done) == [("d", "best"), ("c", "best"), ("a", "best")]
    assert chosen({"take": {"best": 9}}, at_most=orm.Int(1)) == [("b", "best")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"take": {"ucb": 1}}, "unknown acquisition 'ucb'; did you mean lcb. allowed: best, ei, information, lcb, pi"),
        ({"take": {"best": -1}}, "whole number, not -1"),
        ({"take": {}}, "take must say how many"),
        ({"take": {"best": 0}}, "at least one structure"),
        ({"goal": "low"}, "goal 'low'; allowed: min, max"),
        ({"speed": 1}, "unknown settings speed; allowed: take, goal, kappa, in_domain"),
        ({"kappa": -1}, "kappa must be 0 or more"),
    ],
)
def test_settings_in_words(settings, words):
    with pytest.raises(ValueError, match=words):
        chosen(settings)


def test_nothing_left_and_no_std():
    with pytest.raises(ValueError, match="no structure is left to choose"):
        chosen({}, labelled=labelled(IDS, [0.0] * 5))
    plain = predictions(stds=[None] * 5)
    with pytest.raises(ValueError, match="gives no std"):
        select(plain, orm.Dict({}))
    assert select(plain, orm.Dict({"take": {"best": 1}}))["indices"].get_list() == ["b"]


def test_agreement_by_hand():
    """Labels shifted by 1 eV against the predictions, but for one."""
    result = prediction_errors(predictions(), labelled(["b", "c", "e"], [0.8, 1.1, 1.2])).get_dict()
    error = np.array([-1.0, -1.0, -1.3])
    assert result["n"] == 3
    assert result["mae"] == pytest.approx(1.1)
    assert result["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert result["offset"] == pytest.approx(error.mean())
    assert result["mae_without_offset"] == pytest.approx(np.abs(error - error.mean()).mean())
    assert result["coverage"] == 0.0
    assert result["spearman"] == pytest.approx(0.5)
    assert [row["id"] for row in result["rows"]] == ["b", "c", "e"]
    assert result["rows"][2]["error"] == pytest.approx(-1.3)


def test_agreement_without_a_label_of_the_property():
    result = prediction_errors(predictions(property="band_gap"), labelled(["b"], [0.8])).get_dict()
    assert (result["n"], result["reason"]) == (0, "no predicted structure has a label band_gap")


def test_labelled_sets_of_two_rounds():
    scheme = {"engine": "gpaw", "functional": "PBE", "pseudopotentials": {"Al": "x"}}
    both = merge_labelled(set_0=labelled(["a"], [1.0], scheme), set_1=labelled(["b", "c"], [2.0, 3.0], scheme))
    assert list(both.ids) == ["a", "b", "c"]
    assert [atoms.get_potential_energy() for atoms in both.iter_atoms()] == [1.0, 2.0, 3.0]
    other = labelled(["d"], [0.0], {**scheme, "functional": "LDA"})
    with pytest.raises(ValueError, match="functional is PBE for some and LDA for others"):
        merge_labelled(set_0=both, set_1=other)
    with pytest.raises(ValueError, match="some labels say what made them and others do not"):
        merge_labelled(set_0=both, set_1=labelled(["d"], [0.0]))


def test_the_report_of_a_loop():
    rounds = {
        "agreement_1": orm.Dict({"n": 2, "mae": 0.5, "rows": []}),
        "finetune_1": orm.Dict({"before": {"mae": 0.5}, "after": {"mae": 0.2}, "n_train": 2}),
        "agreement_2": orm.Dict({"n": 1, "mae": 0.3}),
    }
    result = learning_report(orm.Dict({"ended": "2 rounds were done"}), **rounds).get_dict()
    assert result["ended"] == "2 rounds were done"
    assert result["rows"] == [
        {"round": 1, "n": 2, "mae": 0.5, "n_labels": 2, "before": {"mae": 0.5}, "after": {"mae": 0.2}, "n_train": 2},
        {"round": 2, "n": 1, "mae": 0.3, "n_labels": 3},
    ]
