"""Give pretrained models a domain by geometry, and energies the errors of distorted and of hypothetical crystals.

``python -m cgcnn_ase.zoo.domains --data FOLDER`` reads the data of each model's recipe; weights are not trained again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats, Floats32
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import compositions_of
from cgcnn_ase.explain.training_neighbors import load_neighbor_index
from cgcnn_ase.graphs.builder import build_graphs
from cgcnn_ase.graphs.crystal_graph import composition
from cgcnn_ase.models.checkpoint import load_models, save_models
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.registry import pretrained_folder
from cgcnn_ase.prediction.evaluation import embeddings_of, geometry_of, outputs_of
from cgcnn_ase.uncertainty import CalibratedPrediction, Calibration, ClassificationCalibration, RegressionCalibration
from cgcnn_ase.uncertainty.conformal import ConformalInterval, HeldOutSignals, PopulationFactors
from cgcnn_ase.uncertainty.contacts import StructureGeometry, structure_geometry
from cgcnn_ase.uncertainty.error_model import ErrorModel
from cgcnn_ase.uncertainty.geometric_error import GeometricError, signal_columns
from cgcnn_ase.uncertainty.geometry_domain import GeometryDomain
from cgcnn_ase.uncertainty.protocol import MemberOutputs, signals
from cgcnn_ase.zoo.card import write_card
from cgcnn_ase.zoo.distorted import TARGET, distorted_set, element_energies, load_energies, true_values
from cgcnn_ase.zoo.train import load_recipe, prepared_data, recipe_names

# distance above the training set's own hull of the crystals that stand for hypothetical ones, eV/atom
ABOVE_HULL = (0.05, 0.5)
_BATCH = 64


class _Predicted(NamedTuple):
    """Predictions without the geometric term, the truth, and what the term reads."""

    prediction: CalibratedPrediction
    truth: Floats
    columns: Floats


def update(name: str, data: Path, distorted: Path) -> Path:
    """Rewrite a folder of pretrained models with all that the domain reads, and its card."""
    folder, recipe = pretrained_folder() / name, load_recipe(name)
    models, prepared = load_models(folder), prepared_data(recipe, data, progress=True)
    parts = {split: geometry_of(prepared.graphs, prepared.rows(split), of_sites=prepared.of_sites) for split in _USED}
    fractions = {
        split: compositions_of(prepared.graphs, prepared.rows(split), of_sites=prepared.of_sites) for split in _USED
    }
    for t, model in enumerate(models):
        known = {split: np.isfinite(prepared.labels(split)[:, t]) for split in _USED}
        chosen: dict[str, StructureGeometry] = {}
        for split, part in parts.items():
            assert part is not None
            chosen[split] = part.select(known[split])
        geometry = GeometryDomain.fit(
            chosen["train"], fractions["train"][known["train"]], chosen["val"], fractions["val"][known["val"]]
        )
        model.calibration = with_geometry(model.calibration, geometry)
        model.dropout_calibration = with_geometry(model.dropout_calibration, geometry)
        embeddings = embeddings_of(model, prepared.graphs, prepared.rows("val"))
        held_out = outputs_of(model, [embedding[torch.from_numpy(known["val"])] for embedding in embeddings])
        model.calibration = with_held_out(model.calibration, held_out, fractions["val"][known["val"]], chosen["val"])
        if model.target.name == TARGET and isinstance(model.calibration, RegressionCalibration):
            model.calibration = with_errors(model, model.calibration, prepared, data, distorted)
    index = load_neighbor_index(folder, model_sha256=models[0].sha256)
    save_models(models, folder, name=name)
    if index is not None:  # of the same embeddings
        replace(index, model_sha256=load_models(folder)[0].sha256).save(folder)
    write_card(folder, data=recipe.data)
    return folder


_USED = ("train", "val")


def with_geometry(calibration: Calibration | None, geometry: GeometryDomain) -> Calibration | None:
    """The calibration with another domain by geometry."""
    if isinstance(calibration, RegressionCalibration | ClassificationCalibration):
        return replace(calibration, domain=replace(calibration.domain, geometry=geometry))
    return calibration


def with_held_out(
    calibration: Calibration | None, outputs: MemberOutputs, composition: Floats32, geometry: StructureGeometry
) -> Calibration | None:
    """The calibration with the signals of these held-out structures (or sites), to compare batches with."""
    if not isinstance(calibration, RegressionCalibration | ClassificationCalibration):
        return calibration
    predicted = calibration.apply(outputs, composition, geometry=geometry)
    assert predicted.domain is not None
    scores = [verdict.score for verdict in predicted.domain]
    return replace(calibration, held_out=HeldOutSignals.fit(scores, predicted.epistemic))


def with_errors(
    model: CrystalModel, calibration: RegressionCalibration, prepared: PreparedData, data: Path, distorted: Path
) -> RegressionCalibration:
    """Fit what distorted training crystals, and val crystals above the hull, add to the error.

    The interval is made again, as the term covers some of the errors of ordinary crystals.
    """
    plain = replace(calibration, geometric=None, hypothetical=None)
    ordinary = _ordinary(model, plain, prepared)
    perturbed = _perturbed(model, plain, data, distorted)
    error, std = ordinary.truth - ordinary.prediction.value, ordinary.prediction.std
    assert std is not None
    assert perturbed.prediction.std is not None
    known = np.isfinite(perturbed.truth)
    geometric = GeometricError.fit(
        perturbed.columns[known],
        (perturbed.truth - perturbed.prediction.value)[known],
        perturbed.prediction.std[known],
        ordinary=ordinary.columns,
        ordinary_errors=error,
        ordinary_std=std,
        truth="SevenNet-0",
    )
    fractions = {split: compositions_of(prepared.graphs, prepared.rows(split)) for split in _USED}
    energies = {split: prepared.labels(split)[:, 0] for split in _USED}
    above = above_hull(fractions["val"], energies["val"], known=fractions["train"], known_energies=energies["train"])
    unstable = (above >= ABOVE_HULL[0]) & (above <= ABOVE_HULL[1])
    rest = geometric.less(error, ordinary.columns)
    interval = ConformalInterval.fit(std, rest, level=calibration.interval.level)
    (lower,) = interval.factors
    hypothetical = PopulationFactors.fit(
        std[unstable], error[unstable], above_hull=ABOVE_HULL, lower_factor=lower, level=interval.level
    )
    return replace(calibration, interval=interval, geometric=geometric, hypothetical=hypothetical)


def _ordinary(model: CrystalModel, calibration: RegressionCalibration, prepared: PreparedData) -> _Predicted:
    """Val crystals as they are, with the std that error models give which saw neither them nor their composition."""
    rows = prepared.rows("val")
    geometry, x = geometry_of(prepared.graphs, rows), compositions_of(prepared.graphs, rows)
    outputs = outputs_of(model, embeddings_of(model, prepared.graphs, rows))
    prediction, truth = calibration.apply(outputs, x, geometry=geometry), prepared.labels("val")[:, 0]
    shape = calibration.domain.signals(geometry, x)
    assert shape is not None
    if calibration.errors is not None:
        embedding = outputs.embedding.numpy()
        raw = signals(outputs.estimate, calibration.domain.distance(embedding))
        _, left_out = ErrorModel.fit(
            raw, x, embedding, truth - prediction.value, difficulty=calibration.errors.difficulty
        )
        prediction = prediction._replace(std=calibration.calibrator.apply(np.column_stack([raw, left_out])))
    return _Predicted(prediction, truth, signal_columns(shape, outputs.estimate.epistemic))


def _perturbed(model: CrystalModel, calibration: RegressionCalibration, data: Path, distorted: Path) -> _Predicted:
    """Distorted training crystals."""
    drawn, energies = distorted_set(data, "train"), load_energies(distorted, "train")
    truth = true_values(drawn, energies, element_energies([drawn], [energies]))
    predictions, columns = [], []
    for k in range(0, len(drawn.perturbed), _BATCH):
        graph = build_graphs([each.atoms for each in drawn.perturbed[k : k + _BATCH]], model.graph)
        with torch.inference_mode():
            outputs = model(graph)
        x, geometry = composition(graph).numpy(), structure_geometry(graph)
        shape = calibration.domain.signals(geometry, x)
        assert shape is not None
        predictions.append(calibration.apply(outputs, x, geometry=geometry))
        columns.append(signal_columns(shape, outputs.estimate.epistemic))
    value, std = (np.concatenate([getattr(p, name) for p in predictions]) for name in ("value", "std"))
    return _Predicted(CalibratedPrediction(value, value[None], std), truth, np.concatenate(columns))


def above_hull(fractions: Floats32, energies: Floats, *, known: Floats32, known_energies: Floats) -> Floats:
    """Distance above the convex hull of known crystals, eV/atom (n,); negative below it.

    Atomic fractions are (n, 101) and (m, 101), formation energies (n,) and (m,) eV/atom. The elements are on the hull.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    by_system: dict[frozenset[int], list[int]] = {}
    for k, row in enumerate(known):
        by_system.setdefault(frozenset(np.flatnonzero(row).tolist()), []).append(k)

    def entry(row: Floats32, energy: float) -> "PDEntry":
        return PDEntry(Composition({symbols()[z]: float(row[z]) for z in np.flatnonzero(row)}), energy)

    diagrams: dict[frozenset[int], PhaseDiagram] = {}
    result = np.empty(len(fractions))
    for k, row in enumerate(fractions):
        system = frozenset(np.flatnonzero(row).tolist())
        if system not in diagrams:
            inside = [j for other, members in by_system.items() if other <= system for j in members]
            corners = [PDEntry(Composition({symbols()[z]: 1}), 0.0) for z in system]
            entries = [entry(known[j], float(known_energies[j])) for j in inside]
            diagrams[system] = PhaseDiagram(entries + corners)
        result[k] = diagrams[system].get_e_above_hull(entry(row, float(energies[k])), allow_negative=True)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="folders of pretrained models; all by default")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument(
        "--distorted", type=Path, default=Path("runs") / "distorted", help="where cgcnn_ase.zoo.distorted left energies"
    )
    options = parser.parse_args(arguments)
    for name in options.names or recipe_names():
        sys.stdout.write(f"{update(name, options.data, options.distorted)}\n")


if __name__ == "__main__":
    main()
