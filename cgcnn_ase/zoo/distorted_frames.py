"""Frames off equilibrium with formation energies: what the formation-energy model learns beside its crystals.

Distorted crystals with the energies of a potential (``scripts/label_crystals.py``), cathodes and their defects (the
data set ``teacher_frames``) and real DFT far off equilibrium (``dft_frames``) have total energies without corrections.
Energies of the elements bring them to the scale of the labels, which carry those of the Materials Project.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats
from cgcnn_ase.core.elements import reference_energies, symbols
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import Dataset, load_dataset, read_properties
from cgcnn_ase.data.frames import Frames, join, read_frames
from cgcnn_ase.data.graph_store import cached_graphs
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.structures.composition import formula_hash, formula_of
from cgcnn_ase.zoo.distorted import DATA, TARGET, element_counts, fit_offsets

# in the folder of the data sets: hashes of formulas that are held out for good
EXCLUDED = "excluded_formulas.txt"
TOTAL = "total_energy_per_atom_uncorrected_reconstructed"
# data sets of frames beside those given, and how many of each are taken, at random
_SETS = {"dft_frames": None, "teacher_frames": 2000}
# frames further above their elements or below them than this are of no crystal, eV/atom
_LARGEST = 10.0
# oxides and fluorides have energies of the elements of their own: the Materials Project adds +U there alone
_WITH_U = (8, 9)
# a potential that is further off a crystal as published does not know it, eV/atom
_AGREES = 0.3
_SEED = 0
_RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """Structures with formation energies, and how many were left out by reason."""

    ids: list[str]
    structures: list[Geometry]
    labels: Floats  # (n,) eV/atom
    left_out: dict[str, int]

    def prepare(self, graph: GraphConfig, target: TargetSpec, *, progress: bool = False) -> PreparedData:
        """Graphs of all of them, to train on."""
        text = "".join(f"{name}\t{label!r}\n" for name, label in zip(self.ids, self.labels.tolist(), strict=True))
        return PreparedData(
            ids=self.ids,
            targets=self.labels[:, None],
            split=np.full(len(self.ids), "train"),
            graphs=cached_graphs(self.structures, graph, progress=progress),
            graph_config=graph,
            specs=(target,),
            train_hash=hashlib.sha256(text.encode()).hexdigest(),
        )


def held_out_formulas(data: Path, names: Sequence[str]) -> set[str]:
    """Hashes of EXCLUDED, and of the val and test formulas of data sets."""
    file = data / EXCLUDED
    if not file.is_file():
        raise DatasetError(
            f"{file}: not found; it lists the hashes of formulas that no frame to learn may have, one a line"
        )
    result = set(file.read_text(encoding="utf-8").split())
    for name in names:
        table, source = read_properties(data / name)
        if missing := {"reduced_formula", "split"} - set(table):
            raise DatasetError(f"{source}: no column {' and no column '.join(sorted(missing))}")
        result |= {formula_hash(each) for each in set(table["reduced_formula"][table["split"] != "train"])}
    return result


def descriptors(counts: Floats) -> Floats:
    """(n, 202): atomic fractions, and again those of oxides and fluorides."""
    fractions = counts / counts.sum(axis=1, keepdims=True)
    with_u = (counts[:, _WITH_U] > 0).any(axis=1, keepdims=True)
    return np.hstack([fractions, fractions * with_u])


def scale_offsets(dataset: Dataset) -> Floats:
    """Total energy less formation energy, (202,) eV an atom by :func:`descriptors`, of the training crystals.

    The data set has both as targets, the formation energy first. Half of 28,534 crystals are met to 0.00002 eV/atom,
    95 % to 0.002: the rest are peroxides and the like.
    """
    values = np.asarray(dataset.targets)
    known = np.isfinite(values).all(axis=1) & (np.asarray(dataset.split) == "train")
    counts = element_counts([dataset.structures[k] for k in np.flatnonzero(known).tolist()])
    elements = [reference_energies().get(symbol, -5.0) for symbol in symbols()]
    start = np.concatenate([elements, np.zeros(len(elements))])
    return fit_offsets(descriptors(counts), values[known, 1] - values[known, 0], start, ridge=_RIDGE)


def labelled_frames(data: Path, folders: Sequence[Path], *, without: Sequence[str] = ()) -> LabelledFrames:
    """Formation energies of the frames of ``dft_frames``, ``teacher_frames`` and folders of distorted crystals.

    A distorted crystal has the label of the crystal that it was made from, plus what the potential says is between
    them. Left out are the frames as published, all of the crystals ``without``, by id, what has a formula that the
    network must not see, and energies of more than 10 eV/atom.
    """
    dataset = load_dataset(data / DATA, target=[TARGET, TOTAL])
    offsets = scale_offsets(dataset)
    excluded = held_out_formulas(data, [DATA])
    label_of = dict(zip(map(str, dataset.ids), np.asarray(dataset.targets)[:, 0].tolist(), strict=True))
    parts: list[Frames] = []
    labels: list[Floats] = []
    for name, most in _SETS.items():
        frames = read_frames(data / name).of_split("train")
        if most is not None:
            frames = frames.take(np.sort(np.random.default_rng(_SEED).permutation(len(frames))[:most]))
        parts.append(frames)
        labels.append(frames.energies / frames.n_atoms - descriptors(frames.counts) @ offsets)
    left_out: Counter[str] = Counter()
    for folder in folders:
        frames, host = read_frames(folder), read_properties(folder)[0]
        scaled = frames.energies / frames.n_atoms - descriptors(frames.counts) @ offsets
        published = (host["how"] == "as published").to_numpy()
        shift = {
            name: label_of[name] - value
            for name, value in zip(host["host"][published], scaled[published], strict=True)
            if abs(label_of[name] - value) < _AGREES
        }
        usable = ~published & host["host"].isin(shift.keys() - set(without)).to_numpy()
        left_out["of crystals for other uses, or unknown to the potential"] += int((~published & ~usable).sum())
        rows = np.flatnonzero(usable)
        parts.append(frames.take(rows))
        labels.append(scaled[rows] + np.array([shift[name] for name in host["host"].iloc[rows]]))
    everything, energies = join(*parts), np.concatenate(labels)
    hashes = [formula_hash(formula_of(shape.numbers)) for shape in everything.structures]
    held_out: Bools = np.array([each in excluded for each in hashes])
    absurd: Bools = ~(np.abs(energies) <= _LARGEST) & ~held_out
    left_out |= {
        "with a formula that is held out": int(held_out.sum()),
        f"above {_LARGEST:g} eV/atom": int(absurd.sum()),
    }
    keep = np.flatnonzero(~held_out & ~absurd)
    return LabelledFrames(
        [f"frame-{k}" for k in keep.tolist()],
        [everything.structures[k] for k in keep.tolist()],
        energies[keep],
        {reason: n for reason, n in left_out.items() if n},
    )
