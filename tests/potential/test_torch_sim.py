"""Our potential through torch-sim: the same numbers, its validation, and a relaxation by its own optimiser."""

import numpy as np
import pytest

torch_sim = pytest.importorskip("torch_sim", reason="torch-sim is not installed: pip install 'cgcnn-ase[torch-sim]'")
import torch  # noqa: E402
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from cgcnn_ase import CGCNNCalculator  # noqa: E402
from cgcnn_ase.cathodes import build_cathode  # noqa: E402
from cgcnn_ase.models.registry import load_model  # noqa: E402
from cgcnn_ase.potential.potential import NotAPotentialError, UnknownElementsError  # noqa: E402
from cgcnn_ase.potential.relax import relax  # noqa: E402
from cgcnn_ase.potential.torch_sim import TorchSimModel  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return load_model("cathode-potential").double()


@pytest.fixture(scope="module")
def cells():
    cells = [build_cathode("LiNiO2", supercell=(1, 1, 1)), build_cathode("Li2MnO3", supercell=(1, 1, 1))]
    for k, atoms in enumerate(cells):
        atoms.rattle(0.05, seed=k)
    return cells


def test_the_same_energy_forces_and_stress(model, cells):
    state = torch_sim.io.atoms_to_state(cells, torch.device("cpu"), torch.float64)
    output = TorchSimModel(model)(state)
    start = 0
    for k, atoms in enumerate(cells):
        ours = atoms.copy()
        ours.calc = CGCNNCalculator(model)
        assert float(output["energy"][k]) == pytest.approx(ours.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(output["forces"][start : start + len(atoms)], ours.get_forces(), atol=1e-5)
        np.testing.assert_allclose(output["stress"][k], ours.get_stress(voigt=False), atol=1e-6)
        start += len(atoms)


def test_it_is_a_model_as_torch_sim_wants_it(model):
    """Torch-sim's own check is made with silicon and iron, which cathodes do not have."""
    general = load_model("general-potential").double()
    validate_model_outputs(TorchSimModel(general), torch.device("cpu"), torch.float64)
    with pytest.raises(UnknownElementsError, match="contains Si.*general-potential knows all elements"):
        validate_model_outputs(TorchSimModel(model), torch.device("cpu"), torch.float64)


def test_its_optimiser_ends_where_ours_ends(model, cells):
    final = torch_sim.optimize(
        system=cells,
        model=TorchSimModel(model),
        optimizer=torch_sim.optimizers.fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(force_tol=0.01, include_cell_forces=False),
        max_steps=400,
        pbar=False,
    )
    ours = relax(cells, model, fmax=0.01, fixed_cell=True)
    for atoms, row in zip(torch_sim.io.state_to_atoms(final), ours, strict=True):
        relaxed = atoms.copy()
        relaxed.calc = CGCNNCalculator(model)
        assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.0101
        assert relaxed.get_potential_energy() == pytest.approx(row.energy, abs=2e-3)


def test_a_model_without_forces_is_refused():
    with pytest.raises(NotAPotentialError, match="has no forces"):
        TorchSimModel("formation-energy-per-atom")
