"""Forces and stress against central differences, and what symmetry demands of them."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import batch, geometry
from cgcnn_ase.models.checkpoint import load_folder, save_model
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.potential.potential import NeighborList, NotAPotentialError, Potential
from cgcnn_ase.training.potential import deepened
from tests.potential.conftest import random_potential

STEP = 1e-4


def evaluate(model, atoms, engine="torch"):
    return Potential(model, engine=engine)(NeighborList(model.graph.cutoff).graph(geometry(atoms)))


def energy(model, atoms):
    return float(evaluate(model, atoms).energies[0])


@pytest.mark.parametrize("engine", ["torch", "dgl"])
def test_forces_are_central_differences(random_model, rattled, engine):
    if engine == "dgl":
        pytest.importorskip("dgl", reason="DGL has no wheel for this Python")
    forces = evaluate(random_model, rattled, engine).forces
    expected = np.empty_like(forces)
    for k in range(len(rattled)):
        for axis in range(3):
            ends = []
            for sign in (1, -1):
                moved = rattled.copy()
                moved.positions[k, axis] += sign * STEP
                ends.append(energy(random_model, moved))
            expected[k, axis] = -(ends[0] - ends[1]) / (2 * STEP)
    np.testing.assert_allclose(forces, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-10)


def test_stress_is_a_central_difference(random_model, rattled):
    stress = evaluate(random_model, rattled).stress[0]
    expected = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            ends = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += sign * STEP / 2
                strain[j, i] += sign * STEP / 2
                strained = rattled.copy()
                strained.set_cell(rattled.cell.array @ strain, scale_atoms=True)
                ends.append(energy(random_model, strained))
            expected[i, j] = (ends[0] - ends[1]) / (2 * STEP) / rattled.get_volume()
    # the volume is in single precision
    np.testing.assert_allclose(stress, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_energy_is_smooth_where_a_neighbor_crosses_the_cutoff(random_model):
    """A dimer just inside and just outside: less than 1e-8 eV."""
    cutoff = random_model.graph.cutoff
    ends = []
    for distance in (cutoff - 1e-4, cutoff + 1e-4):
        atoms = bulk("Li", "sc", a=20.0)
        atoms += atoms.copy()
        atoms.positions[1, 0] += distance
        ends.append(energy(random_model, atoms))
    assert abs(ends[0] - ends[1]) < 1e-8
    third = (ends[0] + ends[1]) / 2
    atoms.positions[1, 0] -= 1.0
    assert abs(energy(random_model, atoms) - third) > 1e-6  # it does see the neighbour


def test_energy_is_invariant_and_extensive(random_model, rattled):
    alone = energy(random_model, rattled)
    turned = rattled.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    mirrored = rattled.copy()
    mirrored.set_cell(-mirrored.cell.array, scale_atoms=False)
    mirrored.positions *= -1
    order = np.random.default_rng(0).permutation(len(rattled))
    assert energy(random_model, turned) == pytest.approx(alone, abs=1e-9)
    assert energy(random_model, mirrored) == pytest.approx(alone, abs=1e-9)
    assert energy(random_model, rattled[order]) == pytest.approx(alone, abs=1e-9)
    assert energy(random_model, rattled.repeat((2, 1, 3))) == pytest.approx(6 * alone, abs=1e-8)


def test_energy_is_that_of_its_atoms(random_model, rattled):
    output = evaluate(random_model, rattled)
    assert output.atom_energies.sum() == pytest.approx(output.energies[0], abs=1e-10)
    assert output.members.values.shape == (3, 1)
    assert float(output.members.values.mean()) * len(rattled) == pytest.approx(output.energies[0], abs=1e-6)


def test_prediction_is_the_energy_of_the_potential(random_model, rattled):
    """The same model read as any other, through graphs of single precision."""
    from cgcnn_ase import predict

    ((value, _),) = predict(random_model, [rattled]).values()
    assert value == pytest.approx(energy(random_model, rattled) / len(rattled), abs=1e-6)


def test_a_batch_is_its_structures(random_model, rattled):
    structures = [rattled, bulk("NiO", "rocksalt", a=4.2), molecule("H2O"), bulk("Li", "sc", a=9.0)]
    graphs = [NeighborList(random_model.graph.cutoff).graph(geometry(atoms)) for atoms in structures]
    potential = Potential(random_model)
    together = potential(batch(graphs))
    start = 0
    for k, (atoms, graph) in enumerate(zip(structures, graphs, strict=True)):
        alone, rows = potential(graph), slice(start, start + len(atoms))
        np.testing.assert_allclose(together.energies[k], alone.energies[0], atol=1e-12)
        np.testing.assert_allclose(together.forces[rows], alone.forces, atol=1e-12)
        np.testing.assert_allclose(together.forces_std[rows], alone.forces_std, atol=1e-12)
        np.testing.assert_allclose(together.stress[k], alone.stress[0], atol=1e-12)
        start += len(atoms)
    assert np.isnan(together.stress[2]).all()
    np.testing.assert_array_equal(together.forces[-1], 0)  # an atom that sees none


def test_several_networks_are_averaged(rattled):
    both = random_potential(n_networks=2)
    one, other = (CrystalModel.like(both, [network]) for network in both.networks)
    mean, parts = evaluate(both, rattled), [evaluate(model, rattled) for model in (one, other)]
    np.testing.assert_allclose(mean.forces, (parts[0].forces + parts[1].forces) / 2, atol=1e-12)
    np.testing.assert_allclose(mean.stress, (parts[0].stress + parts[1].stress) / 2, atol=1e-12)
    assert both.n_members == len(mean.members.values) == 6


def test_saved_and_loaded_it_is_the_same(random_model, rattled, tmp_path):
    single = random_potential().float()
    loaded = load_folder(save_model(single, tmp_path / "potential"))
    assert loaded.is_potential
    np.testing.assert_array_equal(evaluate(loaded, rattled).forces, evaluate(single, rattled).forces)


def test_vectors_are_needed():
    graph = GraphConfig(rule="radius", cutoff=4.5)
    with pytest.raises(ValueError, match="its graph needs rule='radius', vectors=True"):
        CrystalModel.like(random_potential(), random_potential().members).networks[0].config.architecture.check_graph(
            graph
        )
    merged = build_graphs([bulk("Cu", cubic=True)], GraphConfig(rule="radius", cutoff=4.5, merge=True))
    with pytest.raises(ValueError, match="forces need the vectors of the edges"):
        Potential(random_potential())(merged)


def test_a_model_of_nearest_neighbors_is_no_potential():
    with pytest.raises(NotAPotentialError, match=r"reads a graph of the nearest neighbours .* so it has no forces"):
        Potential(load_model("formation-energy-per-atom"))


def test_only_an_energy_is_a_potential():
    model = random_potential()
    gap = CrystalModel(
        model.networks, graph=model.graph, target=TargetSpec(name="band_gap", unit="eV"), scaler=model.scaler
    )
    assert model.is_potential
    assert not gap.is_potential
    network = Network(NetworkConfig(architecture=CGCNNConfig()))
    assert not CrystalModel([network], graph=GraphConfig(), target=model.target, scaler=model.scaler).is_potential


def test_heads_are_members():
    with pytest.raises(ValueError, match="n_heads must be 1 or"):
        NetworkConfig(n_heads=2, mean_variance=True)
    network = Network(NetworkConfig(n_heads=3)).eval()
    pooled = torch.randn(5, network.architecture.pooling.n_out)
    heads = network.read_heads(pooled)
    torch.testing.assert_close(network.read(pooled).value, torch.stack([h.value for h in heads]).mean(dim=0))


def test_more_convolutions_change_nothing_before_they_are_trained(rattled):
    small = random_potential(n_convolutions=2)
    deep = CrystalModel(
        [deepened(small.networks[0].float(), 4).double()], graph=small.graph, target=small.target, scaler=small.scaler
    )
    assert len(deep.networks[0].architecture.convolutions) == 4
    before, after = evaluate(small.double(), rattled), evaluate(deep, rattled)
    np.testing.assert_allclose(after.forces, before.forces, rtol=1e-12)
    np.testing.assert_allclose(after.energies, before.energies, rtol=1e-12)
    leaf = deep.networks[0].architecture.convolutions[-1].out[-1].weight.requires_grad_()
    graph = NeighborList(deep.graph.cutoff).graph(geometry(rattled))
    (slope,) = torch.autograd.grad(deep.networks[0].architecture.atoms(graph)[0].sum(), leaf)
    assert slope.abs().max() > 0  # they can learn
