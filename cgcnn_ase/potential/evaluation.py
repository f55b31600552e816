"""Hold a potential against labelled frames, and calibrate its uncertainty on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats, Floats32, Ints
from cgcnn_ase.data.frames import Frames
from cgcnn_ase.graphs.builder import build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry, composition
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.smooth import SmoothCGCNN
from cgcnn_ase.potential.potential import Potential, PotentialOutput
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.uncertainty import CalibratedPrediction, CalibrationData, RegressionCalibration
from cgcnn_ase.uncertainty.contacts import StructureGeometry, join, structure_geometry
from cgcnn_ase.uncertainty.metrics import spearman
from cgcnn_ase.uncertainty.protocol import MemberOutputs

# frames that go through the network at once, of how many atoms together
_MAX_ATOMS = 400


@dataclass(frozen=True, eq=False)
class FrameEvaluation:
    """Predictions of N frames with n atoms together, beside their labels."""

    outputs: MemberOutputs  # energies per atom of each member, eV/atom
    energies: Floats  # (N,) true, eV/atom
    composition: Floats32  # (N, 101)
    geometry: StructureGeometry | None
    force_errors: Floats  # (n, 3) predicted less true, eV/Å
    forces_std: Floats  # (n,) eV/Å
    stress_errors: Floats  # (N, 3, 3) eV/Å^3; NaN where there is no label
    prediction: CalibratedPrediction

    @property
    def energy_errors(self) -> Floats:
        """Predicted less true, (N,) eV/atom."""
        errors: Floats = self.outputs.values.double().numpy().mean(axis=0) - self.energies
        return errors

    def metrics(self) -> dict[str, float | int | None]:
        """Mean absolute errors of energy (eV/atom), forces (eV/Å) and stress (GPa), and what the stds are worth."""
        from ase.units import GPa

        of_stress = self.stress_errors[np.isfinite(self.stress_errors)]
        size = np.sqrt((self.force_errors**2).mean(axis=1))
        p = self.prediction
        covered = None
        if p.lower is not None and p.upper is not None:
            covered = float(np.mean((p.lower <= self.energies) & (self.energies <= p.upper)))
        return {
            "n_frames": len(self.energies),
            "mae": float(np.abs(self.energy_errors).mean()),
            "forces_mae": float(np.abs(self.force_errors).mean()),
            "stress_mae": float(np.abs(of_stress).mean()) / GPa if of_stress.size else None,
            "coverage": covered,
            "energy_spearman": None if p.std is None else spearman(p.std, np.abs(self.energy_errors)),
            "forces_spearman": spearman(self.forces_std, size),
            "forces_mean_squared_z": float(np.mean((self.force_errors / self.forces_std[:, None]) ** 2)),
            "in_domain": None if p.domain is None else float(np.mean([each.in_domain for each in p.domain])),
        }


def evaluate_frames(model: CrystalModel, frames: Frames) -> FrameEvaluation:
    """Predict frames and compare them with their labels."""
    potential = Potential(model)
    outputs: list[PotentialOutput] = []
    compositions, shapes = [], []
    for graph in _batches(frames.structures, model):
        outputs.append(potential(graph))
        compositions.append(composition(graph).numpy())
        shapes.append(structure_geometry(graph))
    together = MemberOutputs(
        torch.cat([each.members.values for each in outputs], dim=1),
        None,
        torch.cat([each.members.embedding for each in outputs]),
    )
    fractions, shape = np.concatenate(compositions), join(shapes)
    return FrameEvaluation(
        together,
        frames.energies / frames.n_atoms,
        fractions,
        shape,
        np.concatenate([each.forces for each in outputs]) - np.concatenate(frames.forces),
        np.concatenate([each.forces_std for each in outputs]),
        np.concatenate([each.stress for each in outputs]) - frames.stress,
        model.calibrated(together, fractions, geometry=shape),
    )


def _batches(structures: Sequence[Geometry], model: CrystalModel) -> Iterator[CrystalGraph]:
    """Graphs of some structures at once, in their order."""
    group: list[Geometry] = []
    for structure in structures:
        if group and sum(len(each.numbers) for each in group) + len(structure.numbers) > _MAX_ATOMS:
            yield build_graphs(group, model.graph)
            group = []
        group.append(structure)
    yield build_graphs(group, model.graph)


def calibrate_potential(model: CrystalModel, train: Frames, val: Frames, *, level: float = 0.9) -> None:
    """Set the calibration of a potential's energy, its domain, and the size of ``forces_std``.

    The std of the forces is multiplied by one factor, after which the mean of (error / std)^2 is 1 on val.

    Raises
    ------
    ValueError
        If there are too few frames.
    """
    model.calibration = None
    known, held = evaluate_frames(model, train), evaluate_frames(model, val)
    factor = float(np.sqrt(np.mean((held.force_errors / held.forces_std[:, None]) ** 2)))
    for network in model.networks:
        assert isinstance(network.architecture, SmoothCGCNN)
        network.architecture.shift_force_error(factor)
    model.calibration = RegressionCalibration.fit(
        held.outputs,
        CalibrationData(
            labels=held.energies,
            composition=held.composition,
            training_embedding=known.outputs.embedding.numpy(),
            training_composition=known.composition,
            groups=_groups(val),
            geometry=held.geometry,
            training_geometry=known.geometry,
        ),
        level=level,
    )


def _groups(frames: Frames) -> Ints:
    """Frames of one formula, whose errors are alike, have one number; (N,)."""
    keys = [composition_key(shape.numbers) for shape in frames.structures]
    groups: Ints = np.unique(keys, return_inverse=True)[1]
    return groups
