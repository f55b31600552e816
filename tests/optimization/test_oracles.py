"""Oracles by name: what they say of a structure, what they are called, and how they fail."""

import math
import os
import subprocess
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from cgcnn_ase.optimization.oracles import ORACLES, BatchOracle, Evaluation, Oracle, OracleError, make_oracle
from cgcnn_ase.optimization.oracles.base import GuardedOracle, OracleRecipe, checked

EMT_ORACLE = {"calculator": "ase.calculators.emt:EMT"}


def rattled(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_an_ase_calculator_by_name():
    atoms = rattled()
    oracle = make_oracle("ase", EMT_ORACLE)
    assert isinstance(oracle, Oracle)
    assert not isinstance(oracle, BatchOracle)
    evaluation = oracle.evaluate({}, atoms)
    atoms.calc = EMT()
    assert evaluation.values == {"energy": pytest.approx(atoms.get_potential_energy(), abs=1e-12)}
    assert oracle.describe()["what"].startswith("EMT, an ASE calculator (ase ")


def test_relaxed_in_its_cell():
    oracle = make_oracle("ase", EMT_ORACLE | {"relax": {"fmax": 0.01, "steps": 200}})
    perfect = make_oracle("ase", EMT_ORACLE).evaluate({}, bulk("Cu", cubic=True)).values["energy"]
    assert oracle.evaluate({}, rattled()).values["energy"] == pytest.approx(perfect, abs=1e-4)
    impatient = make_oracle("ase", EMT_ORACLE | {"relax": {"fmax": 1e-6, "steps": 1}})
    with pytest.raises(OracleError, match="forces are above 1e-06 eV/Å after 1 steps"):
        impatient.evaluate({}, rattled())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "chgnet2",
            {},
            r"unknown oracle 'chgnet2'; did you mean chgnet\? allowed: ase, callable, chgnet, .*model, .*table",
        ),
        ("ase", {}, "the setting oracle.calculator is missing"),
        ("ase", {"calculator": "EMT"}, "give module:name or file.py:name"),
        ("ase", {"calculator": "ase.calculators.emt:EMX"}, "has no function or class EMX"),
        ("ase", {"calculator": "no.such:EMT"}, "there is no module no.such"),
        ("ase", {"calculator": "ase.calculators.singlepoint:SinglePointCalculator"}, "does not take them: .*'atoms'"),
        ("ase", EMT_ORACLE | {"relax": {"fmx": 1}}, r"unknown setting oracle.relax.fmx; did you mean fmax\?"),
        ("ase", EMT_ORACLE | {"scale": "mp2021"}, "unknown scale of energies 'mp2021'"),
        ("ase", EMT_ORACLE | {"relax": {"fmax": 0}}, "oracle.relax.fmax: input should be greater than 0, not 0"),
        ("callable", {"function": "nofile.py:f"}, "there is no file"),
    ],
)
def test_bad_options(name, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        make_oracle(name, options, folder=tmp_path)


def test_the_scale_of_a_calculator_is_as_stated(tmp_path):
    assert make_oracle("ase", EMT_ORACLE | {"scale": "other:EMT"}, folder=tmp_path).scale == "other:EMT"
    assert make_oracle("ase", EMT_ORACLE, folder=tmp_path).scale is None


def test_entry_points_of_other_packages(monkeypatch):
    from importlib.metadata import EntryPoint

    result = EntryPoint("gpaw", "tests_oracle_factory:make", ORACLES.group)
    monkeypatch.setattr(ORACLES, "_loaded", {})  # what is loaded here stays here
    monkeypatch.setattr(
        "cgcnn_ase.core.registry.entry_points", lambda group: [result] if group == ORACLES.group else []
    )
    monkeypatch.setattr(EntryPoint, "load", lambda self: lambda options, *, folder: (self.name, options, folder))
    assert "gpaw" in ORACLES.names()
    name, options, _ = make_oracle("gpaw", {"protocol": "fast"})
    assert (name, options) == ("gpaw", {"protocol": "fast"})


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (Evaluation({"energy": math.nan}), "energy is nan, not a finite number"),
        (Evaluation({"energy": -math.inf}), "energy is -inf"),
        (Evaluation({"energy": 1.0}, {"energy": math.inf}), "the std of energy is inf"),
        (Evaluation({"energy": 1.0}, {"energy": -0.1}), "the std of energy is negative"),
        (Evaluation({}), "gave no value"),
        (Evaluation({"energy": None}), "energy is None, not a number"),
        (Evaluation({"energy": 1.0}, info={"calculator": EMT()}), "info holds what cannot be saved"),
    ],
)
def test_numbers_that_are_none(evaluation, words):
    with pytest.raises(OracleError, match=words):
        checked(evaluation)


def test_numbers_of_numpy_are_plain_afterwards():
    evaluation = checked(Evaluation({"energy": np.float32(0.5)}, {"energy": np.float64(0.25)}, {"steps": 3}))
    assert evaluation == Evaluation({"energy": 0.5}, {"energy": 0.25}, {"steps": 3})
    assert {type(number) for number in (*evaluation.values.values(), *evaluation.stds.values())} == {float}


# functions

FUNCTIONS = """
import subprocess, sys, time
from pathlib import Path

def value(point, atoms, factor=1.0):
    return {"value": factor * point["x"]}

def with_error_bar(point, atoms):
    return {"value": point["x"]}, {"value": 0.1}

def text(point, atoms):
    return "high"

def words(point, atoms):
    return {"value": "high"}

def twice(point, atoms, file):
    tries = Path(file).read_text().count("x") if Path(file).exists() else 0
    Path(file).write_text("x" * (tries + 1))
    if tries < 2:
        raise ZeroDivisionError("not yet")
    return {"value": 1.0}

def hangs(point, atoms, file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(file).write_text(str(child.pid))
    time.sleep(60)

def dies(point, atoms):
    import os
    os._exit(3)
"""


@pytest.fixture
def functions(tmp_path):
    (tmp_path / "oracles.py").write_text(FUNCTIONS)

    def make(name, *, retries=0, timeout_s=None, **parameters):
        options = {"function": f"oracles.py:{name}", "parameters": parameters}
        oracle = make_oracle("callable", options, folder=tmp_path)
        recipe = OracleRecipe("callable", options, tmp_path)
        return GuardedOracle(oracle, retries=retries, timeout_s=timeout_s, recipe=recipe)

    return make


def test_a_function(functions):
    answer = functions("value", factor=2.0).ask({"x": 0.25}, None)
    assert answer.evaluation == Evaluation({"value": 0.5}, {})
    assert functions("with_error_bar").ask({"x": 0.25}, None).evaluation.stds == {"value": 0.1}
    assert "returned 'high', not values by name" in functions("text").ask({"x": 0.0}, None).reason
    assert functions("words").ask({"x": 0.0}, None).reason == "value is 'high', not a number"


def test_retries_as_configured(functions, tmp_path):
    answer = functions("twice", retries=1, file=str(tmp_path / "a")).ask({"x": 0.0}, None)
    assert (answer.evaluation, answer.attempts) == (None, 2)
    assert answer.reason == "ZeroDivisionError: not yet"
    answer = functions("twice", retries=2, file=str(tmp_path / "b")).ask({"x": 0.0}, None)
    assert answer.evaluation == Evaluation({"value": 1.0}, {})
    assert answer.attempts == 3


def _runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_one_that_hangs_is_ended_with_all_it_started(functions, tmp_path):
    guard = functions("hangs", timeout_s=1.0, file=str(tmp_path / "pid"))
    start = time.monotonic()
    answer = guard.ask({"x": 0.0}, None)
    assert time.monotonic() - start < 25
    assert answer.reason == "no answer after 1 s (timeout_s); its process was ended"
    deadline = time.monotonic() + 5
    while _runs(pid := int((tmp_path / "pid").read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)
    guard.close()


def test_a_process_that_dies_and_the_next_question(functions):
    guard = functions("dies", timeout_s=30.0)
    assert "the oracle's process died: a worker process ended with code 3" in guard.ask({"x": 0.0}, None).reason
    guard.close()
    guard = functions("value", timeout_s=30.0)
    try:
        assert guard.ask({"x": 0.5}, None).evaluation == Evaluation({"value": 0.5}, {})
        worker = guard._worker._process.pid
        os.kill(worker, 9)
        assert guard.ask({"x": 0.5}, None).reason  # the process is gone: a failure, which a retry mends
        assert guard.ask({"x": 0.5}, None).evaluation == Evaluation({"value": 0.5}, {})
    finally:
        guard.close()


def test_a_time_limit_needs_something_to_make_again():
    with pytest.raises(ValueError, match="has no time limit"):
        GuardedOracle(make_oracle("ase", EMT_ORACLE), timeout_s=1.0)


# tables


def test_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("x,name,gap,gap_std,note\n0.5,a,1.0,0.1,fine\n0.3333,b,2.0,,\n0.25,a,,,\n")
    oracle = make_oracle("table", {"file": "t.csv"}, folder=tmp_path)
    assert oracle.evaluate({"x": 0.5, "name": "a"}, None) == Evaluation({"gap": 1.0}, {"gap": 0.1})
    assert oracle.evaluate({"name": "b", "x": 1 / 3}, None) == Evaluation({"gap": 2.0}, {})
    with pytest.raises(OracleError, match=r"t.csv has no row for this point"):
        oracle.evaluate({"x": 0.5, "name": "b"}, None)
    with pytest.raises(OracleError, match="gave no value"):
        checked(oracle.evaluate({"x": 0.25, "name": "a"}, None))
    assert oracle.points(["x", "name"])[0] == {"x": 0.5, "name": "a"}
    with pytest.raises(ValueError, match=r"t.csv: no column y"):
        oracle.points(["y"])


def test_bad_tables(tmp_path):
    (tmp_path / "twice.csv").write_text("x,gap\n0.5,1.0\n0.5,2.0\n")
    oracle = make_oracle("table", {"file": "twice.csv"}, folder=tmp_path)
    with pytest.raises(ValueError, match="rows 2 and 3 are the same point"):
        oracle.points(["x"])
    (tmp_path / "empty.csv").write_text("x,gap\n")
    with pytest.raises(ValueError, match="has no rows"):
        make_oracle("table", {"file": "empty.csv"}, folder=tmp_path)


# machine-learned ones say what they are


def test_chgnet_is_called_what_it_is():
    from cgcnn_ase.energies.energy_model import as_energy_model

    oracle = make_oracle("chgnet")
    assert oracle.describe()["what"] == "CHGNet 0.4.2, a machine-learned potential, not DFT"
    atoms = bulk("NiO", "rocksalt", a=4.18)
    energy = oracle.evaluate({}, atoms).values["energy"]
    relaxing = make_oracle("chgnet", {"relax": {"fmax": 5.0}})  # with forces: another way through CHGNet
    assert energy == pytest.approx(relaxing.evaluate({}, atoms).values["energy"], abs=1e-4)
    assert energy == pytest.approx(as_energy_model("chgnet").energies([atoms]).energies[0])
    assert np.isfinite(energy)


def test_a_pretrained_model():
    from cgcnn_ase import predict

    atoms = bulk("NiO", "rocksalt", a=4.18)
    oracle = make_oracle("model", {"model": "formation-energy-per-atom"})
    prediction = oracle.evaluate({}, atoms)
    ((value, std),) = predict("formation-energy-per-atom", [atoms], population="hypothetical").values()
    assert prediction.values == {"formation_energy_per_atom": pytest.approx(value)}
    assert prediction.stds == {"formation_energy_per_atom": pytest.approx(std)}
    assert "not DFT" in oracle.describe()["what"]
