"""The predictor: order, names, several models, streams, worker processes, dropout."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from ase.io import write
from pymatgen.io.ase import AseAtomsAdaptor

from cgcnn_ase import Predictor, load_model, predict
from cgcnn_ase.core.parallel import WorkerError, ordered_map
from cgcnn_ase.graphs.builder import build_graphs, graphs_and_nodes
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.registry import UnknownModelError
from cgcnn_ase.prediction.predictor import CHUNK
from cgcnn_ase.prediction.results import COLUMNS, Prediction
from cgcnn_ase.structures import StructureError

from ..conftest import make_model, random_crystal, rock_salt_cif

#: different batches add up in another order
TOLERANCES = {"rel": 1e-4, "abs": 1e-5}


def same(one: list[Prediction], other: list[Prediction], **but):
    """Equal predictions but for rounding."""
    assert len(one) == len(other)
    for p, q in zip(one, other, strict=True):
        for field in fields(Prediction):
            a, b = getattr(p, field.name), but.get(field.name, getattr(q, field.name))
            assert a == (pytest.approx(b, **TOLERANCES) if isinstance(b, float) else b), field.name


# Results


def test_mapping(small_model, cif_folder):
    results = predict(small_model, cif_folder(3))
    assert list(results) == ["c000", "c001", "c002"]
    assert len(results) == 3
    for structure_id, (mean, std) in results.items():
        assert results[structure_id] == (mean, std)
        assert np.isfinite(mean)
        assert std > 0
    assert results.failures == []
    with pytest.raises(KeyError):
        results["c003"]


def test_frame(small_model, cif_folder):
    folder = cif_folder(3)
    frame = predict(small_model, folder).to_frame()
    expected = ["id", "formula", "n_atoms", "value", "std", "lower", "upper"]
    assert list(frame.columns) == list(COLUMNS)
    assert [c for c in frame.columns if c in expected] == expected
    assert {"in_domain", "reason", "unit", "model", "model_sha256"} <= set(frame.columns)
    assert frame.id.tolist() == ["c000", "c001", "c002"]
    assert frame.formula.tolist() == ["Mg4O4", "Ni4O4", "Ca4O4"]
    assert (frame.n_atoms == 8).all()
    assert (frame.lower < frame.value).all()
    assert (frame.value < frame.upper).all()
    assert set(frame.unit) == {"eV/atom"}
    assert set(frame.model_sha256) == {load_model(small_model).sha256}
    assert len(pd.DataFrame(predict(small_model, folder).to_frame()).dtypes) == len(COLUMNS)


def test_frame_of_nothing(small_model):
    frame = predict(small_model, []).to_frame()
    assert list(frame.columns) == list(COLUMNS)
    assert frame.empty


# Inputs


def test_objects_of_both_kinds_and_files_agree(small_model, crystals, tmp_path):
    some = crystals[:8]
    of_atoms = predict(small_model, some)
    of_pymatgen = predict(small_model, [AseAtomsAdaptor.get_structure(atoms) for atoms in some])
    for k, atoms in enumerate(some):
        write(tmp_path / f"{k}.extxyz", atoms, write_results=False)
    of_files = predict(small_model, tmp_path)
    assert list(of_atoms) == list(of_pymatgen) == list(of_files) == [str(k) for k in range(8)]
    same(of_pymatgen.all, of_atoms.all)
    for k in of_atoms:
        assert of_files[k] == pytest.approx(of_atoms[k], **TOLERANCES)


def test_one_object(small_model, crystals):
    (prediction,) = predict(small_model, crystals[0]).all
    assert (prediction.id, prediction.source) == ("0", "<memory>")


def test_dict(small_model, crystals):
    results = predict(small_model, {"first": crystals[0], "second": crystals[1]})
    assert list(results) == ["first", "second"]
    assert results["second"] == pytest.approx(predict(small_model, crystals[1])["0"], **TOLERANCES)


def test_many_frames_in_one_file(small_model, crystals, tmp_path):
    write(tmp_path / "all.extxyz", crystals[:5])
    results = predict(small_model, tmp_path / "all.extxyz")
    assert list(results) == [f"all:{k}" for k in range(5)]


def test_order_is_kept(small_model, crystals):
    sizes = [len(atoms) for atoms in crystals]
    assert [p.n_atoms for p in Predictor(small_model).stream(crystals * 3)] == sizes * 3
    large = [random_crystal(np.random.default_rng(k), n_atoms=n) for k, n in enumerate([1500, 3, 1600, 2, 4000, 5])]
    assert [p.n_atoms for p in Predictor(small_model).stream(large)] == [1500, 3, 1600, 2, 4000, 5]


def test_a_stream_is_taken_as_it_goes(small_model, crystals):
    taken = []

    def endless():
        k = 0
        while True:
            taken.append(k)
            yield crystals[k % len(crystals)]
            k += 1

    stream = Predictor(small_model).stream(endless())
    assert taken == []
    first = [next(stream) for _ in range(10)]
    assert [p.id for p in first] == [str(k) for k in range(10)]
    assert len(taken) <= CHUNK
    for _ in range(CHUNK):
        next(stream)
    assert len(taken) <= 2 * CHUNK


def test_a_long_file_is_taken_as_it_goes(small_model, tmp_path, monkeypatch):
    import cgcnn_ase.prediction.predictor as module

    read, iter_piece = [], module.iter_piece
    monkeypatch.setattr(
        module, "iter_piece", lambda *a, **k: (read.append(1) or record for record in iter_piece(*a, **k))
    )
    write(tmp_path / "a.extxyz", [random_crystal(np.random.default_rng(0))] * 300)
    stream = Predictor(small_model).stream(tmp_path / "a.extxyz")
    next(stream)
    assert len(read) <= CHUNK


def test_failures_never_cost_the_others(small_model, crystals):
    bad = crystals[1].copy()
    bad.positions[0] = np.nan
    results = predict(small_model, [crystals[0], bad, crystals[2]])
    assert list(results) == ["0", "2"]
    (failure,) = results.failures
    assert failure.id == "1"
    assert "not a finite number" in failure.error
    assert all(getattr(failure, k) is None for k in ("value", "std", "lower", "upper", "epistemic", "in_domain"))
    assert results["2"] == pytest.approx(predict(small_model, {"2": crystals[2]})["2"], **TOLERANCES)


def test_what_only_the_graph_refuses(small_model, crystals, monkeypatch):
    """A structure that cannot become a graph is found among the others of its batch."""
    import cgcnn_ase.prediction.inference as module

    def build(structures, config):
        if any(len(atoms) == 7 for atoms in structures):
            raise ValueError("seven is unlucky")
        return graphs_and_nodes(structures, config)

    monkeypatch.setattr(module, "graphs_and_nodes", build)
    results = predict(small_model, crystals)
    unlucky = [str(k) for k, atoms in enumerate(crystals) if len(atoms) == 7]
    assert [p.id for p in results.failures] == unlucky
    assert {p.error for p in results.failures} == {"seven is unlucky"}
    assert len(results) == len(crystals) - len(unlucky)


def test_files_of_one_name_get_the_names_of_their_folders(small_model, tmp_path):
    for name, a in (("one", 4.2), ("two", 4.3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cif").write_text(rock_salt_cif(a))
    for workers in (1, 2):
        results = predict([small_model, small_model], [tmp_path / "one", tmp_path / "two"], workers=workers)
        assert not results.failures
        assert results.to_frame()["id"].tolist() == ["one_a", "one_a", "two_a", "two_a"]  # by each of the two models


def test_missing_files(small_model, tmp_path):
    with pytest.raises(StructureError, match="no such file or folder"):
        predict(small_model, tmp_path / "nothing")


# Models


def test_several_models(small_model, dropout_model, original_weights, crystals):
    models = [small_model, original_weights / "band-gap.pth.tar"]
    results = predict(models, crystals[:2])
    names = ["small-formation-energy-per-atom", "band-gap"]
    assert list(results) == [f"{k}/{name}" for k in (0, 1) for name in names]
    (alone,) = predict(models[1], {"1": crystals[1]}).all
    assert results["1/band-gap"] == (pytest.approx(alone.value, **TOLERANCES), None)
    twins = predict([small_model, dropout_model], crystals[0])
    shas = [load_model(folder).sha256[:8] for folder in (small_model, dropout_model)]
    assert list(twins) == [f"0/small-formation-energy-per-atom@{sha}" for sha in shas]


def test_models_are_looked_for_at_once(tmp_path):
    with pytest.raises(UnknownModelError, match="no model 'nothing'"):
        Predictor("nothing")
    with pytest.raises(ValueError, match="at least one model"):
        Predictor([])
    with pytest.raises(ValueError, match="workers must be at least 1"):
        Predictor(make_model(), workers=0)


def test_engines_agree(small_model, crystals):
    pytest.importorskip("dgl")
    same(predict(small_model, crystals, engine="dgl").all, predict(small_model, crystals, engine="torch").all)


def test_log10_targets_come_out_in_their_unit(crystals):
    model = make_model(name="bulk_modulus", unit="GPa", transform="log10")
    with torch.inference_mode():
        log10 = model(build_graphs(crystals, model.graph), "torch").values.double().mean(dim=0).numpy()
    frame = predict(model, crystals).to_frame()
    assert frame.value.to_numpy() == pytest.approx(10**log10, rel=1e-4)
    assert set(frame.unit) == {"GPa"}
    assert (frame.lower > 0).all()
    assert (frame.lower < frame.value).all()
    assert (frame.value < frame.upper).all()
    # a small error of the logarithm, in GPa
    judged = model.calibration
    assert judged is not None
    log_width = np.log10(frame.upper) - np.log10(frame.lower)
    ratio = frame["std"] / (frame.value * np.log(10) * log_width)
    assert ratio.to_numpy() == pytest.approx(np.full(len(frame), ratio[0]), rel=1e-3)


def test_classification_gives_probabilities(crystals):
    model = make_model(task="classification", name="is_metal", unit="probability")
    frame = predict(model, crystals).to_frame()
    assert frame.value.between(0, 1).all()
    assert frame["std"].between(0, 1).all()  # the spread of the members
    assert frame.lower.isna().all()


def test_a_model_without_anything(crystals):
    frame = predict(make_model(n_members=1, calibration=False, mean_variance=False), crystals).to_frame()
    assert frame.value.notna().all()
    assert frame[["std", "lower", "upper", "epistemic", "aleatoric", "in_domain"]].isna().all(axis=None)


def test_parts_of_the_uncertainty(small_model, crystals):
    frame = predict(small_model, crystals).to_frame()
    assert (frame.epistemic > 0).all()
    assert (frame.aleatoric > 0).all()


# Worker processes


def test_workers_agree_with_one_process(small_model, cif_folder):
    folder = cif_folder(150)
    (folder / "c010.cif").write_text("")
    one = list(Predictor(small_model, workers=1).stream(folder))
    two = list(Predictor(small_model, workers=2).stream(folder))
    assert [p.id for p in two] == [f"c{k:03d}" for k in range(150)]
    same(two, one)
    assert two[10].error == one[10].error == "is empty"


def test_workers_take_objects_and_are_ended(small_model, crystals):
    import psutil

    before = set(psutil.Process().children(recursive=True))
    stream = Predictor(small_model, workers=2).stream(crystals * 5)
    two = [next(stream) for _ in range(2 * len(crystals))]
    workers = set(psutil.Process().children(recursive=True)) - before
    assert len(workers) == 2
    stream.close()
    assert not any(worker.is_running() for worker in workers)
    same(two, list(Predictor(small_model).stream(crystals * 2)))


def test_ordered_map_raises_what_the_function_raises():
    with pytest.raises(ZeroDivisionError) as info:
        list(ordered_map(divmod, ((1, k) for k in (2, 1, 0)), 2))
    assert isinstance(info.value.__cause__, WorkerError)


def test_ordered_map_says_that_a_worker_died():
    import os

    with pytest.raises(WorkerError, match="ended with code 3"):
        list(ordered_map(os._exit, [(3,)], 1))


def test_printing_does_not_disturb_ordered_map():
    assert list(ordered_map(print, [("to stderr",)] * 5, 2)) == [None] * 5


def test_scripts_need_no_main_guard(small_model, cif_folder, tmp_path):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        "from cgcnn_ase import predict\n"
        f"print(len(predict({str(small_model)!r}, {str(cif_folder(19))!r}, workers=2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("19\n", "")


# Monte Carlo dropout


def test_dropout_is_repeatable(dropout_model, crystals):
    one, two = (predict(dropout_model, crystals, n_dropout=10, seed=5).to_frame() for _ in range(2))
    assert one.equals(two)
    other = predict(dropout_model, crystals, n_dropout=10, seed=6).to_frame()
    assert (one.value != other.value).all()
    assert (one.epistemic > 0).all()


def test_dropout_does_not_touch_the_global_random_state(dropout_model, crystals):
    state = torch.random.get_rng_state()
    predict(dropout_model, crystals[:3], n_dropout=5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_dropout_does_not_depend_on_the_batch(dropout_model, crystals):
    together = predict(dropout_model, crystals, n_dropout=10)
    alone = [predict(dropout_model, {str(k): crystals[k]}, n_dropout=10).all[0] for k in (0, 7, 30)]
    same(alone, [together.all[k] for k in (0, 7, 30)])


def test_dropout_leaves_the_model_as_it_was(dropout_model, crystals):
    model = load_model(dropout_model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, crystals, n_dropout=10)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_dropout_computes_the_convolutions_once(dropout_model, crystals, monkeypatch):
    from cgcnn_ase.nn.cgcnn import CGCNN
    from cgcnn_ase.prediction.fused_cgcnn import BlockedCGCNN

    calls = []
    atoms, crystal = BlockedCGCNN.atoms_of_blocks, CGCNN.crystal
    monkeypatch.setattr(BlockedCGCNN, "atoms_of_blocks", lambda *a: calls.append("convolutions") or atoms(*a))
    monkeypatch.setattr(CGCNN, "crystal", lambda *a: calls.append("head") or crystal(*a))
    predict(dropout_model, crystals[:4], n_dropout=20)
    assert calls == ["convolutions"] + ["head"] * 20


def test_dropout_of_an_ensemble(tmp_path, crystals):
    folder = save_model(make_model(n_members=2, dropout=0.2), tmp_path / "m")
    model = load_model(folder)
    with torch.inference_mode():
        assert model.sample(build_graphs(crystals, model.graph), 5, engine="torch").values.shape == (10, len(crystals))
    assert predict(folder, crystals, n_dropout=5).to_frame()["std"].gt(0).all()


def test_the_mean_of_many_samples_is_near_the_plain_prediction(dropout_model, crystals):
    plain = predict(dropout_model, crystals).to_frame()
    sampled = predict(dropout_model, crystals, n_dropout=400).to_frame()
    assert np.abs(sampled.value - plain.value).max() < 0.3 * sampled.epistemic.max() + 0.02


@pytest.mark.parametrize("n", [1, 0, -3])
def test_dropout_needs_samples(dropout_model, n):
    with pytest.raises(ValueError, match=f"n_dropout must be at least 2 to have a spread, not {n}"):
        Predictor(dropout_model, n_dropout=n).check()


def test_dropout_without_dropout(small_model):
    with pytest.raises(ValueError, match=r"a model trained with dropout; 'small-.*' was trained without"):
        Predictor(small_model, n_dropout=10).check()
