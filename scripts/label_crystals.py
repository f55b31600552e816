"""Label distorted crystals of all elements for a potential: energies, forces and stress by SevenNet-0 or CHGNet.

    python scripts/label_crystals.py --data DATA --output runs/crystals --teacher sevennet-0 --n-crystals 8000

Parents are crystals of the training part of DATA/mp36k with at most 16 atoms. Each is labelled as published and in two
distorted forms: strained and rattled a little, strained or rattled much, with another element in one place, with its
elements exchanged, with a point defect, or as a slab; with ``--kinds compressed expanded`` scaled far. What has a
formula of the val and test parts of mp36k or of dft_frames, or of DATA/excluded_formulas.txt, is left out, distorted
or substituted.

OUTPUT/frames.extxyz grows crystal by crystal; started again, the script goes on. At the end OUTPUT holds structures.npz
and properties.csv.gz, as DATA/teacher_frames does, with one formula in 25 as val, and the sha256 of both on stdout.
About 16 ms an atom on one core (SevenNet-0).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import ase.io
import numpy as np
from ase import Atoms
from label_frames import LARGEST_FORCE, label, label_parser, pack
from rich.console import Console
from rich.progress import track

from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.structures.composition import formula_hash
from cgcnn_ase.structures.validation import validation_error
from cgcnn_ase.zoo.distorted import KINDS, potential
from cgcnn_ase.zoo.distorted_frames import held_out_formulas

MAX_ATOMS = 16
# how often a distorted form is of each kind
FORMS = {
    "disturbed": 0.45,
    "strained": 0.18,
    "rattled": 0.1,
    "substituted": 0.12,
    "permuted": 0.06,
    "vacancy": 0.03,
    "interstitial": 0.03,
    "slab": 0.03,
}
# forms that are made where they are asked for: linear scales, from and to
FAR = {"compressed": (0.70, 0.82), "expanded": (1.25, 1.40)}
N_FORMS = 2


def disturbed(atoms: Atoms, rng: np.random.Generator, size: float = 1.0) -> Atoms:
    """Strain by about 4 % and rattle by up to 0.2 Å, times ``size``."""
    atoms = atoms.copy()
    strain = size * (np.eye(3) * rng.normal(0, 0.04) + rng.normal(0, 0.015, (3, 3)))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    atoms.positions += rng.normal(0, size * rng.uniform(0.01, 0.2) / np.sqrt(3), atoms.positions.shape)
    return atoms


def distorted(atoms: Atoms, rng: np.random.Generator, kinds: list[str]) -> tuple[str, Atoms]:
    """One distorted form of these kinds, with what was done; ValueError where it is of no such crystal."""
    weights = np.array([FORMS.get(kind, 0.1) for kind in kinds])
    kind = str(rng.choice(kinds, p=weights / weights.sum()))
    if kind == "disturbed":
        return kind, disturbed(atoms, rng)
    if kind == "strained" or kind in FAR:
        scale = rng.uniform(*FAR.get(kind, (0.82, 1.25)))
        changed = disturbed(atoms, rng, 0.3)
        changed.set_cell(changed.cell.array * scale, scale_atoms=True)
        return f"{kind} {scale - 1:+.2f}", changed
    if kind == "rattled":
        sigma = rng.uniform(0.1, 0.45)
        changed = atoms.copy()
        changed.positions += rng.normal(0, sigma / np.sqrt(3), changed.positions.shape)
        return f"{kind} {sigma:.2f}", changed
    return kind, disturbed(KINDS[kind](atoms, rng)[0], rng, 0.4)


def forms(atoms: Atoms, rng: np.random.Generator, kinds: list[str]) -> Iterator[tuple[str, Atoms]]:
    """A crystal as published and distorted forms of it."""
    yield "as published", atoms
    for _ in range(N_FORMS):
        with suppress(ValueError):  # an element has nothing to exchange
            yield distorted(atoms, rng, kinds)


def main() -> None:
    parser = label_parser(
        __doc__ or "", data="mp36k and dft_frames", kinds=[*FORMS, *FAR], default=list(FORMS), of="distorted forms"
    )
    parser.add_argument("--n-crystals", type=int, default=8000)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    file = chosen.output / "frames.extxyz"
    dataset = load_dataset(chosen.data / "mp36k", target=["formation_energy_per_atom"])
    assert dataset.split is not None
    excluded = held_out_formulas(chosen.data, ["mp36k", "dft_frames"])
    small = [k for k, shape in enumerate(dataset.structures) if len(shape.numbers) <= MAX_ATOMS]
    parents = np.random.default_rng(chosen.seed).permutation([k for k in small if dataset.split[k] == "train"])
    done = {atoms.info["host"] for atoms in ase.io.read(file, ":")} if file.exists() else set()
    teacher = potential(chosen.teacher)
    dropped: Counter[str] = Counter()
    for k in track(parents[: chosen.n_crystals].tolist(), description="Labelling", console=Console(stderr=True)):
        name, shape = str(dataset.ids[k]), dataset.structures[k]
        if name in done:
            continue
        rng = np.random.default_rng((chosen.seed, k))
        atoms = Atoms(shape.numbers, shape.positions, cell=shape.cell, pbc=True)
        digest = formula_hash(str(atoms.symbols))
        if digest in excluded:  # nor is another form of it learned, such as a supercell with a vacancy
            dropped["crystal held out"] += 1
            continue
        frames = []
        for how, frame in forms(atoms, rng, chosen.kinds):
            if formula_hash(str(frame.symbols)) in excluded:
                dropped["formula held out"] += 1
            elif validation_error(frame) is not None:
                dropped["atoms too near"] += 1
            elif (labelled := label(frame, teacher)) is None:
                dropped[f"a force above {LARGEST_FORCE:g} eV/Å"] += 1
            else:
                split = "val" if int(digest, 16) % 25 == 0 else "train"
                labelled.info |= {"host": name, "kind": "crystal", "how": how, "split": split}
                frames.append(labelled)
        if frames:
            ase.io.write(file, frames, append=file.exists())
    print("left out:", dict(dropped))
    pack(ase.io.read(file, ":"), chosen.output)


if __name__ == "__main__":
    main()
