"""Relaxation with a reference against ASE's BFGS on the reference alone, with and without a potential."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS

from cgcnn_ase import relax
from cgcnn_ase.data.frames import read_frames
from cgcnn_ase.learning.learning_state import LearningState
from cgcnn_ase.learning.reference import (
    ReferenceCalculationError,
    ReferenceChangedError,
    ask_reference,
    reference_by_name,
    reference_scheme,
)
from cgcnn_ase.learning.session import LearnedRelaxation, LearnedRelaxOptions
from cgcnn_ase.learning.surface import PotentialSurface
from tests.learning.conftest import CountedEMT, Shifted
from tests.potential.conftest import random_potential


def by_bfgs(atoms, *, cell=False, fmax=0.05):
    moved, calculator = atoms.copy(), CountedEMT()
    moved.calc = calculator
    assert BFGS(FrechetCellFilter(moved) if cell else moved, logfile=None).run(fmax=fmax, steps=200)
    return moved, calculator.calls


def test_springs_alone_find_the_minimum_with_fewer_calls(slab, tmp_path):
    expected, calls = by_bfgs(slab)
    (row,) = relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "memory", trajectory=True)
    assert row.converged
    assert row.max_force <= 0.05
    assert row.n_reference_calls <= 0.6 * calls
    assert row.energy == pytest.approx(expected.get_potential_energy(), abs=2e-3 * len(slab))
    # the end is the reference's own: nothing of it is a prediction
    check = row.atoms.copy()
    check.calc = EMT()
    assert check.get_potential_energy() == pytest.approx(row.energy, abs=1e-6)
    np.testing.assert_allclose(check.get_forces(apply_constraint=False), row.atoms.calc.results["forces"], atol=1e-6)
    assert len(row.trajectory) == row.n_reference_calls == len(read(tmp_path / "memory/labels.extxyz", ":"))
    np.testing.assert_allclose(row.atoms.positions[:4], slab.positions[:4], atol=1e-8)


def test_the_cell_relaxes_too(copper):
    expected, calls = by_bfgs(copper, cell=True)
    (row,) = relax([copper], None, reference=EMT())
    assert row.converged
    assert row.n_reference_calls < calls
    assert row.energy == pytest.approx(expected.get_potential_energy(), abs=2e-3 * len(copper))
    assert row.atoms.get_volume() == pytest.approx(expected.get_volume(), rel=0.02)


def test_a_potential_that_is_wrong_does_no_harm(slab):
    """One with random weights: springs explain the labels better, and are taken."""
    (row,) = relax([slab], random_potential(), reference=EMT(), fixed_cell=True)
    (alone,) = relax([slab], None, reference=EMT(), fixed_cell=True)
    assert row.converged
    assert row.n_reference_calls <= alone.n_reference_calls + 2


def test_the_second_structure_asks_less_than_the_first_and_names_its_energy_before(slab, tmp_path):
    again = slab.copy()
    again.positions[-1] += [0.05, -0.03, 0.04]
    rows = relax([slab, again], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "memory")
    assert [row.error for row in rows] == [None, None]
    calls = (tmp_path / "memory/calls.csv").read_text().splitlines()
    assert len(calls) == 1 + sum(row.n_reference_calls for row in rows)
    assert len(read_frames(tmp_path / "memory/labels.extxyz")) == len(calls) - 1


def test_a_run_that_is_made_again_asks_nothing(slab, tmp_path):
    counted = CountedEMT()
    options = {"reference": counted, "fixed_cell": True, "memory": tmp_path / "memory"}
    (first,) = relax([slab], None, **options)
    calls = counted.calls
    (second,) = relax([slab], None, **options)
    assert counted.calls == calls
    assert second.energy == first.energy
    np.testing.assert_array_equal(second.atoms.positions, first.atoms.positions)


def test_labels_in_part_lead_to_the_same_end(slab, tmp_path):
    """What an interrupted run has left is the beginning of the whole one."""
    (whole,) = relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "whole", trajectory=True)
    state = LearningState(tmp_path / "part", reference=EMT())
    full = LearningState(tmp_path / "whole", reference=EMT())
    for label in full.labels[:2]:
        state.add(label)
    (part,) = relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "part")
    assert part.n_reference_calls == whole.n_reference_calls
    np.testing.assert_allclose(part.atoms.positions, whole.atoms.positions, atol=1e-7)


SCRIPT = """
import sys, time
from ase.io import read
from ase.calculators.emt import EMT
from cgcnn_ase import relax
class Slow(EMT):
    def calculate(self, *args, **kwargs):
        open(sys.argv[2], "a").write("call\\n")
        time.sleep(0.15)
        super().calculate(*args, **kwargs)
relax(sys.argv[1], None, reference=Slow(), fixed_cell=True, fmax=0.01, memory=sys.argv[3])
"""


def killed(slab, tmp_path, n):
    """Kill a run ``n`` times at moments that a seed chooses, then let it end; return calls that were made twice."""
    slab.write(tmp_path / "slab.extxyz")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    (whole,) = relax(
        tmp_path / "slab.extxyz", None, reference=EMT(), fixed_cell=True, fmax=0.01, memory=tmp_path / "whole"
    )
    command = [sys.executable, script, tmp_path / "slab.extxyz", tmp_path / "calls", tmp_path / "memory"]
    rng = np.random.default_rng(5)
    labels = tmp_path / "memory/labels.extxyz"
    n_killed = 0
    while n_killed < n:
        before = len(read(labels, ":")) if labels.exists() else 0
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        calls = (tmp_path / "calls").read_text().count("call") if (tmp_path / "calls").exists() else 0
        while process.poll() is None:  # a random moment after the first call of this process
            if (tmp_path / "calls").exists() and (tmp_path / "calls").read_text().count("call") > calls:
                break
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0.0, 0.3)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        n_killed += 1
        assert (len(read(labels, ":")) if labels.exists() else 0) >= before
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    made = LearningState(tmp_path / "memory").labels
    assert len(made) == whole.n_reference_calls
    np.testing.assert_allclose(made[-1].atoms.positions, whole.atoms.positions, atol=1e-6)
    # each kill costs at most the call it fell into
    assert (tmp_path / "calls").read_text().count("call") <= len(made) + n


def test_killed_and_started_again(slab, tmp_path):
    killed(slab, tmp_path, 2)


@pytest.mark.long
def test_killed_at_ten_random_moments(slab, tmp_path):
    killed(slab, tmp_path, 10)


class Failing(EMT):
    """Fails, or gives no numbers, from the third call on."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.calls += 1
        if self.calls > 2:
            if self.how == "raises":
                raise RuntimeError("no convergence")
            if self.how == "nan":
                self.results["forces"] = np.full_like(self.results["forces"], np.nan)
            if self.how == "unconverged":
                self.converged = False


@pytest.mark.parametrize(
    ("how", "words"),
    [("raises", "RuntimeError: no convergence"), ("nan", "not finite"), ("unconverged", "has not converged")],
)
def test_a_reference_that_fails_is_an_error_of_its_structure(slab, copper, tmp_path, how, words):
    rows = relax([slab, copper], None, reference=Failing(how), fixed_cell=True, memory=tmp_path / "memory")
    assert words in rows[0].error
    assert "after 2 calls that were kept" in rows[0].error
    assert rows[0].energy is None
    assert len(read(tmp_path / "memory/labels.extxyz", ":")) == 2
    (row,) = relax([slab], None, reference=EMTWithName(), fixed_cell=True, memory=tmp_path / "other")
    assert row.converged


class EMTWithName(EMT):
    """EMT of another class."""


def test_settings_that_change_are_refused(slab, tmp_path):
    relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "memory")
    with pytest.raises(ReferenceChangedError, match=r"asap_cutoff is True and was None"):
        relax([slab], None, reference=EMT(asap_cutoff=True), fixed_cell=True, memory=tmp_path / "memory")
    with pytest.raises(ReferenceChangedError, match=r"calculator is '.*LennardJones' and was '.*EMT'"):
        relax([slab], None, reference=LennardJones(), fixed_cell=True, memory=tmp_path / "memory")


def test_settings_that_change_between_calls_are_refused(slab):
    reference = EMT()
    state = LearningState(reference=reference)
    session = LearnedRelaxation(slab, state.memory(), LearnedRelaxOptions(fixed_cell=True))
    request = session.ask()
    session.add(state.label(request, session.atoms_of(request.structure), "0", with_stress=False))
    reference.set(asap_cutoff=True)
    request = session.ask()
    with pytest.raises(ReferenceChangedError, match="asap_cutoff"):
        state.label(request, session.atoms_of(request.structure), "0", with_stress=False)


def test_another_functional_is_named(tmp_path):
    state = json.loads('{"format_version": 1, "scheme": {"calculator": "x.GPAW", "parameters": {"xc": "LDA"}}}')
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "labels.extxyz").write_text("")

    class GPAW(EMT):
        def todict(self):
            return {"xc": "PBE", "txt": "out.txt"}

    GPAW.__module__, GPAW.__qualname__ = "x", "GPAW"
    assert reference_scheme(GPAW()) == {"calculator": "x.GPAW", "parameters": {"xc": "PBE"}}
    with pytest.raises((ReferenceChangedError, ValueError), match="xc is 'PBE' and was 'LDA'"):
        LearningState(tmp_path, reference=GPAW())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_force_std": 0.0}, "max_force_std must be above 0, not 0"),
        ({"max_energy_std": -1.0}, "max_energy_std must be above 0, not -1"),
        ({"fmax": 0.0}, "fmax must be above 0"),
        ({"max_calls": 0}, "max_calls must be 1 or more"),
        ({"finetune_every": 3}, "finetune_every must be 10 or more, not 3"),
        ({"finetune_every": 20}, "needs a potential to tune, and a folder"),
        ({"keep_symmetry": True}, "keep_symmetry: not with a reference"),
        ({"reference": "emtt"}, "unknown reference 'emtt'; did you mean emt?"),
        ({"reference": "ase.calculators.emt:Nothing"}, "reference ase.calculators.emt:Nothing"),
    ],
)
def test_settings_out_of_range(slab, options, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        relax([slab], None, **({"reference": "emt", "fixed_cell": True} | options))


def test_no_model_is_for_references_only(slab):
    with pytest.raises(ValueError, match="with a reference only"):
        relax([slab], None)


def test_a_memory_of_other_elements_is_an_error_of_the_structure(slab, copper, tmp_path):
    relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "memory")
    (row,) = relax([copper], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "memory")
    assert "the labels are of H, Al, and the structure has none of these" in row.error


def test_a_folder_of_something_else_is_left_alone(slab, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds no state.json, and is not empty"):
        relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        relax([slab], None, reference=EMT(), fixed_cell=True, memory=tmp_path / "mine.txt")


def test_no_stress_no_moving_cell(copper):
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

    (row,) = relax([copper], None, reference=NoStress())
    assert "stress" in row.error


def test_not_converged_is_told(slab):
    (row,) = relax([slab], None, reference=EMT(), fixed_cell=True, fmax=1e-4, max_calls=2)
    assert row.converged is False
    assert row.n_reference_calls == 2
    assert row.max_force > 1e-4


def test_tuned_after_so_many_labels(tmp_path):
    """Ten labels on, the potential is another one, which knows these labels about as well, and is found again."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.3, seed=0)
    model = random_potential().float()
    model.training_record["scale"] = "uncorrected"
    reference = Shifted(model, seed=1, size=1.0)
    state = LearningState(tmp_path / "memory", model=model, reference=reference, finetune_every=10)
    from cgcnn_ase.learning.relax import stream_learned
    from cgcnn_ase.structures import StructureRecord

    records = [StructureRecord("a", "<atoms>", atoms, None)]
    (row,) = stream_learned(records, state, LearnedRelaxOptions(fmax=1e-9, fixed_cell=True, max_calls=11))
    assert row.n_reference_calls == 11
    assert (tmp_path / "memory/potential/00010/best/config.json").is_file()
    tuned = state.memory(11).surface
    assert tuned.potential.model.sha256 != model.sha256
    assert state.memory(9).surface.potential.model.sha256 == model.sha256

    def error(surface):
        return np.mean([np.abs(surface(each.structure).forces - each.forces).mean() for each in state.labels[:10]])

    assert error(tuned) < 1.1 * error(PotentialSurface(model))  # few labels, few steps: no worse


def test_references_by_name():
    assert isinstance(reference_by_name("emt"), EMT)
    assert isinstance(reference_by_name("ase.calculators.lj:LennardJones", {"rc": 9.0}), LennardJones)
    with pytest.raises(ValueError, match="does not take its parameters"):
        reference_by_name("ase.calculators.singlepoint:SinglePointCalculator", {})
    espresso = reference_by_name("quantumespresso", {"pseudopotentials": {"Si": "Si.upf"}, "kspacing": 0.4})
    assert espresso.parameters["input_data"]["control"]["tprnfor"] is True
    assert espresso.parameters["kspacing"] == 0.4


def test_ask_reference_wants_one_row_of_forces_an_atom(slab):
    class OneRow(EMT):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = self.results["forces"][:1]

    with pytest.raises(ReferenceCalculationError):
        ask_reference(OneRow(), slab, with_stress=False)
