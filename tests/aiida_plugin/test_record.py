"""Recording what a calculator computes: one node for a whole run."""

import numpy as np
import pytest

pytest.importorskip("aiida")

from aiida import orm
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.provenance.origin import origin
from aiida_plugin.provenance.record import PROCESS_TYPE, RecordedCalculation, record
from aiida_plugin.provenance.same_structure import predictions_of
from cgcnn_ase import CGCNNCalculator


@pytest.fixture(autouse=True)
def profile(aiida_profile_clean):
    return aiida_profile_clean


@pytest.fixture
def calculator(small_model):
    return CGCNNCalculator(small_model)


def swapped(atoms, rng):
    """One Monte Carlo swap of two atoms."""
    new = atoms.copy()
    i, j = rng.choice(len(new), 2, replace=False)
    new.numbers[[i, j]] = new.numbers[[j, i]]
    return new


def test_a_monte_carlo_run_is_one_process(calculator):
    """Its predictions are those that the calculator gave, in order, exactly."""
    rng = np.random.default_rng(0)
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    steps = []
    with record(calculator) as recorded:
        for _ in range(6):
            atoms = swapped(atoms, rng)
            atoms.calc = calculator
            steps.append((atoms.get_potential_energy(), calculator.get_energy_uncertainty(per_atom=True),
                          *calculator.results["formation_energy_per_atom_interval"]))  # fmt: skip
            calculator.get_property("in_domain", atoms)  # nothing changed: not computed again
    node = recorded.node
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == 1
    assert (node.process_type, node.is_finished_ok, node.is_sealed) == (PROCESS_TYPE, True, True)
    assert node.process_class is RecordedCalculation  # AiiDA can load what it names, and it says what the node has
    links = {link.link_label for link in node.base.links.get_incoming()}
    assert set(node.process_class.spec().inputs) - {"metadata"} == links
    frame = node.outputs.predictions.to_frame()
    assert frame["id"].tolist() == [str(k) for k in range(6)]
    assert frame[["std", "lower", "upper"]].to_numpy() == pytest.approx(np.array(steps)[:, 1:], rel=1e-15)
    table = calculator._reference_energy()
    assert 8 * frame["value"].to_numpy() + table == pytest.approx(np.array(steps)[:, 0], rel=1e-12)
    frames = list(node.inputs.structures.iter_atoms())
    assert len(frames) == len(recorded) == 6
    assert frames[-1] == atoms
    assert node.inputs.settings.get_dict()["reference"] == "mp-pbe"
    assert node.inputs.model.sha256 == calculator.model.sha256 == frame["model_sha256"].iloc[0]
    assert "calculate" not in vars(calculator)


def test_molecular_dynamics_beside_a_potential(calculator):
    """The potential drives, the model watches: a row for each step; the same for a relaxation."""
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    dynamics = VelocityVerlet(atoms, timestep=2 * units.fs)
    with record(calculator) as recorded:
        dynamics.attach(lambda: calculator.get_property("formation_energy_per_atom", atoms))
        dynamics.run(5)
    assert len(recorded) == 6
    positions = [frame.positions for frame in recorded.node.inputs.structures.iter_atoms()]
    assert positions[-1] == pytest.approx(atoms.positions, abs=0)
    assert not np.allclose(positions[0], positions[-1])
    with record(calculator) as relaxed:
        optimizer = BFGS(atoms, logfile=None)
        optimizer.attach(lambda: calculator.get_property("formation_energy_per_atom", atoms))
        optimizer.run(fmax=0.05, steps=20)
    assert len(relaxed) == optimizer.nsteps + 1
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == 2


def test_inside_of_another_calculator(calculator):
    """A calculator that is a part of a sum is recorded itself."""
    atoms = bulk("Cu", a=3.61, cubic=True)
    atoms.calc = SumCalculator([EMT(), calculator])
    with record(calculator) as recorded:
        total = atoms.get_potential_energy()
    (value,) = recorded.node.outputs.predictions.to_frame()["value"]
    copy = atoms.copy()
    copy.calc = EMT()
    assert 4 * value + calculator._reference_energy() + copy.get_potential_energy() == pytest.approx(total)


def test_two_calculators_two_nodes(calculator):
    other = CGCNNCalculator("band-gap")
    atoms = bulk("NiO", "rocksalt", a=4.17)
    with record(calculator) as energies, record(other) as gaps:
        calculator.get_property("formation_energy_per_atom", atoms)
        other.get_property("band_gap", atoms)
    assert len(energies) == len(gaps) == 1
    assert gaps.node.inputs.model.pk == CGCNNModelData.get_or_create("band-gap").pk  # the pretrained folder
    assert set(predictions_of(atoms)["property"]) == {"formation_energy_per_atom", "band_gap"}


def test_what_was_computed_before_an_error_is_recorded(calculator):
    """The node says that it failed, not what the error's words were; the calculator is as before."""
    atoms = bulk("NiO", "rocksalt", a=4.17)
    atoms.calc = calculator

    def fail(error):
        atoms.rattle(0.01)
        atoms.get_potential_energy()
        raise error

    with pytest.raises(RuntimeError, match="s3cret"), record(calculator) as recorded:
        fail(RuntimeError("https://host/?key=s3cret"))
    node = recorded.node
    assert (node.is_failed, node.exit_status) == (True, 400)
    assert node.exit_message == "stopped after 1 evaluations: RuntimeError"
    assert len(node.outputs.predictions) == 1
    assert "calculate" not in vars(calculator)
    with pytest.raises(KeyboardInterrupt), record(calculator) as recorded:
        fail(KeyboardInterrupt())
    assert recorded.node.exit_status == 400


def test_a_structure_that_cannot_be_computed_is_listed(calculator):
    atoms = bulk("NiO", "rocksalt", a=4.17)
    with record(calculator) as recorded:
        calculator.get_property("formation_energy_per_atom", atoms)
        atoms.positions[1] = atoms.positions[0]
        with pytest.raises(ValueError, match="overlap|same place|apart"):
            calculator.get_property("formation_energy_per_atom", atoms)
    assert recorded.node.is_finished_ok  # the run went on
    predictions = recorded.node.outputs.predictions
    assert predictions.to_frame()["id"].tolist() == ["0"]
    ((name, reason),) = predictions.failures
    assert (name, bool(reason)) == ("1", True)
    assert len(recorded.node.inputs.structures) == 2


def test_nothing_computed_nothing_stored(calculator):
    with record(calculator) as recorded, pytest.raises(ValueError, match="the context is still open"):
        _ = recorded.node
    with pytest.raises(ValueError, match="nothing was computed in it"):
        _ = recorded.node
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == 0


def test_the_model_node(calculator, small_model, dropout_model):
    """A stored one is taken; without one a new one is made of the model in memory, with the same weights."""
    atoms = bulk("NiO", "rocksalt", a=4.17)
    with record(calculator) as recorded:
        calculator.get_property("formation_energy_per_atom", atoms)
    assert recorded.node.inputs.model.load().sha256 == calculator.model.sha256
    again = CGCNNModelData.get_or_create(small_model)
    with record(calculator, model=again) as second:
        calculator.reset()
        calculator.get_property("formation_energy_per_atom", atoms)
    assert second.node.inputs.model.pk == again.pk
    with pytest.raises(ValueError, match="has the weights .*, the calculator has"):
        record(calculator, model=CGCNNModelData.get_or_create(dropout_model))


def test_an_original_model_needs_its_node(original_weights):
    file = original_weights / "formation-energy-per-atom.pth.tar"
    calculator = CGCNNCalculator(file)
    with pytest.raises(ValueError, match=r"give it: record\(calc, model=CGCNNModelData"):
        record(calculator)
    with record(calculator, model=CGCNNModelData.get_or_create(file)) as recorded:
        calculator.get_property("formation_energy_per_atom", bulk("NiO", "rocksalt", a=4.17))
    result = origin(recorded.node.outputs.predictions, "0")
    assert result.models[0].pk == recorded.node.inputs.model.pk
    assert result.jobs[0].pk == recorded.node.pk


def test_what_cannot_be_recorded(calculator):
    with pytest.raises(TypeError, match="a EMT cannot be recorded; allowed is a CGCNNCalculator"):
        record(EMT())
    with record(calculator), pytest.raises(ValueError, match="is being recorded already"), record(calculator):
        pass
    assert "calculate" not in vars(calculator)
