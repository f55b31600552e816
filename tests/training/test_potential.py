"""Training a potential: gradients against second derivatives, files that are wrong, a run from start to end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from matscipy.neighbours import neighbour_list

from cgcnn_ase import finetune
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.frames import element_energies, join, read_frames, with_splits, without_absurd
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig
from cgcnn_ase.potential.evaluation import evaluate_frames
from cgcnn_ase.potential.potential import vectors_of
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.potential import FrameLoss, FrameModule, FrameSamples
from cgcnn_ase.training.potential_run import fit_potential, potential_config

SMALL = SmoothCGCNNConfig(n_features=8, n_channels=3, n_products=4, cutoff=4.0, n_convolutions=2)


def morse_potential():
    """Of copper, with neighbours that are found thirteen times as fast as ASE's own."""
    return MorsePotential(neighbour_list, epsilon=0.35, r0=2.55, rho0=4.0, rcut1=3.3, rcut2=3.9)


def morse_frames(n, *, seed=0, repeat=((1, 1, 1), (2, 1, 1))):
    """Copper crystals under strain, rattled, labelled by a Morse potential."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = bulk("Cu", a=3.6 * rng.uniform(0.95, 1.08), cubic=True).repeat(repeat[k % len(repeat)])
        atoms.rattle(0.08, seed=seed + k)
        atoms.calc = morse_potential()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def frames():
    return morse_frames(16)


def test_two_passes_give_the_gradient_of_the_loss(frames):
    """Against second derivatives by autograd, in double precision."""
    torch.manual_seed(0)
    network = Network(NetworkConfig(architecture=SMALL, n_heads=2)).double()
    module = FrameModule(network, 2.0, potential_config(SMALL), FrameLoss(n_heads=2))
    module.log = lambda *_, **__: None
    samples = FrameSamples(read_frames(frames), GraphConfig(rule="radius", cutoff=4.0, vectors=True), np.zeros(101),
                           n_heads=2, seed=0)  # fmt: skip
    batch = samples[[0, 1, 2]]
    batch = batch._replace(
        graph=batch.graph._replace(vectors=vectors_of(batch.graph).double()),
        **{name: getattr(batch, name).double() for name in ("energies", "forces", "stress", "weights")},
    )
    network.zero_grad()
    module.training_step(batch, 0).backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    leaf = vectors_of(batch.graph).clone().requires_grad_()
    energies, _ = module._energies(batch.graph, leaf)
    (gradients,) = torch.autograd.grad(energies.mean(dim=1).sum(), leaf, create_graph=True)
    loss, _ = module._loss(batch, energies, gradients)
    loss.backward()
    checked = 0
    for name, p in network.named_parameters():
        if p.grad is not None and "force_error" not in name:
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(ours[name], p.grad, rtol=1e-2, atol=5e-3 * scale)
            checked += 1
    assert checked > 20
    assert "architecture.force_error.0.weight" in ours  # by its own likelihood


def test_a_run_learns_and_goes_into_the_calculator(frames, tmp_path):
    told = []
    config = potential_config(SMALL, epochs=12, learning_rate=1e-2, ema_decay=0.9, batch_size=4)
    result = fit_potential(
        read_frames(morse_frames(110, repeat=((1, 1, 1),))), tmp_path / "run", config=config, val=0.2, test=0.0,
        tell=told.append,
    )  # fmt: skip
    model = load_folder(result.model)
    assert model.is_potential
    val = result.metrics["val"]
    labels = np.concatenate([atoms.get_forces() for atoms in frames])
    assert val["forces_mae"] < 0.5 * np.abs(labels).mean()
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(history) == 13
    assert any("110 frames: 88 train" in line for line in told)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["val"] == val
    # forces_std was brought to the size of the errors on val
    assert val["forces_mean_squared_z"] == pytest.approx(1.0, abs=1e-3)
    # the same in the calculator
    from cgcnn_ase import CGCNNCalculator

    atoms = frames[0].copy()
    atoms.calc = CGCNNCalculator(model)
    expected = evaluate_frames(model, read_frames(frames[:1]))
    np.testing.assert_allclose(atoms.get_forces() - frames[0].get_forces(), expected.force_errors, atol=1e-5)
    # and it is what tuning starts from
    with pytest.warns(UserWarning, match="the energy is not calibrated"):
        tuned = finetune(model, frames, tmp_path / "tuned", settings={"epochs": 3}, replay=morse_frames(8, seed=5))
    assert tuned.metrics["val"]["forces_mae"] < 1.5 * tuned.metrics["before"]["val"]["forces_mae"]
    assert load_folder(tuned.model).training_record["from"]["model"] == model.name
    # the model that tuning started from is as it was
    again = evaluate_frames(model, read_frames(frames[:1]))
    np.testing.assert_array_equal(again.force_errors, expected.force_errors)
    with pytest.raises(ValueError, match="they never mix"):
        fit_potential(replace(read_frames(frames), scale="mp2020"), tmp_path / "scales", start=model)
    with pytest.raises(ValueError, match="freeze: of no effect for a potential"):
        finetune(model, frames, tmp_path / "other", freeze="embedding")


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path, frames):
    from cgcnn_ase.training.potential import train_potential

    parts = with_splits(read_frames(frames))
    config = potential_config(SMALL, epochs=2, batch_size=4)
    once = train_potential(parts, config, tmp_path / "once", progress=False)
    train_potential(parts, config, tmp_path / "twice", progress=False, stop_after=1)
    twice = train_potential(parts, config, tmp_path / "twice", progress=False, resume=True)
    for one, other in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_frames_are_read_alike_from_every_source(frames, tmp_path):
    write(tmp_path / "frames.extxyz", frames)
    write(tmp_path / "frames.db", frames)
    memory = read_frames(frames)
    for name in ("frames.extxyz", "frames.db"):
        part = read_frames(tmp_path / name)
        np.testing.assert_allclose(part.energies, memory.energies, atol=1e-8)
        np.testing.assert_allclose(np.concatenate(part.forces), np.concatenate(memory.forces), atol=1e-7)
        np.testing.assert_allclose(part.stress, memory.stress, atol=1e-8)


def test_frames_without_forces_are_named(frames):
    bare = frames[3].copy()
    bare.calc = SinglePointCalculator(bare, energy=1.0)
    with pytest.raises(DatasetError, match=r"1 of 3 frames have no forces: 2"):
        read_frames([*frames[:2], bare])
    with pytest.raises(DatasetError, match=r"1 of 2 frames have no energy: 1"):
        read_frames([frames[0], frames[1].copy()])


def test_forces_of_the_wrong_shape(frames):
    atoms = frames[0].copy()
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    atoms.calc.results["forces"] = np.zeros((2, 3))
    with pytest.raises(DatasetError, match=r"forces of the shape \(2, 3\) for 4 atoms"):
        read_frames([atoms])


def relabelled(frames, **change):
    """Frames with other labels."""
    new = []
    for atoms in frames:
        copy = atoms.copy()
        labels = {name: change.get(name, lambda v, _: v)(v, atoms) for name, v in atoms.calc.results.items()
                  if name in ("energy", "forces", "stress")}  # fmt: skip
        copy.calc = SinglePointCalculator(copy, **labels)
        new.append(copy)
    return new


def test_energies_per_atom_are_told(frames):
    shifted = relabelled(frames, energy=lambda e, atoms: e - 13.7 * len(atoms))
    read_frames(shifted)
    with pytest.raises(DatasetError, match="the energies look like eV/atom"):
        read_frames(relabelled(shifted, energy=lambda e, atoms: e / len(atoms)))


def strained_frames():
    """One crystal in cells a little apart."""
    frames = []
    for scale in np.linspace(0.985, 1.015, 7):
        atoms = bulk("Cu", a=3.6 * scale, cubic=True)
        atoms.calc = morse_potential()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, _: -s, "its sign"),
        (lambda s, _: s / 0.0062415, "GPa or kbar|its unit"),
        (lambda s, _: s * 1602.18, "GPa or kbar|its unit"),
    ],
)
def test_stress_of_another_sign_or_unit_is_told(change, words):
    frames = strained_frames()
    read_frames(frames)
    with pytest.raises(DatasetError, match=words):
        read_frames(relabelled(frames, stress=change))


def test_absurd_frames_are_left_out_and_counted(frames):
    wild = relabelled(frames[:1], forces=lambda f, _: f + 50.0)
    far = relabelled(frames[1:2], energy=lambda e, atoms: e + 500.0 * len(atoms))
    kept, dropped = without_absurd(read_frames([*frames, *wild, *far]))
    assert len(kept) == len(frames)
    assert sorted(dropped.values()) == [1, 1]


def test_scales_never_mix(frames):
    one = read_frames(frames)
    with pytest.raises(ValueError, match="never mix"):
        join(one, replace(one, scale="mp2020"))
    assert len(join(one, one)) == 2 * len(one)


def test_element_energies_are_those_that_made_them():
    rng = np.random.default_rng(0)
    truth = {"Li": -1.5, "Ni": -4.0, "O": -5.0}
    frames = []
    for _ in range(12):
        symbols = [s for s, n in zip(truth, rng.integers(1, 5, 3), strict=True) for _ in range(n)]
        atoms = Atoms(symbols, positions=rng.uniform(0, 9, (len(symbols), 3)), cell=[9, 9, 9], pbc=True)
        energy = sum(truth[s] for s in symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
        frames.append(atoms)
    fitted = element_energies(read_frames(frames))
    np.testing.assert_allclose(fitted[[3, 28, 8]], list(truth.values()), atol=1e-3)
    assert not fitted[[1, 26]].any()


def test_frames_of_a_formula_are_in_one_split():
    parts = with_splits(read_frames([*morse_frames(6), *strained_frames()]))
    assert set(parts.split) == {"train", "val", "test"}


def test_another_architecture_is_refused(frames, tmp_path):
    from cgcnn_ase.training.potential import train_potential

    with pytest.raises(ValueError, match="a potential needs the architecture smooth-cgcnn, not cgcnn"):
        train_potential(with_splits(read_frames(frames)), TrainConfig(), tmp_path, progress=False)
