"""Label vacancies in oxides of the Materials Project with CHGNet: the set `chgnet` that the vacancy model learns beside
the published ones. Unrelaxed supercells, elements as chemical potentials; an interatomic potential, not DFT.

    python scripts/label_vacancies.py --data DATA --output runs/chgnet_vacancies

DATA holds mp36k and the published sets of vacancies, whose test hosts are left out. OUTPUT/labels.csv grows line by
line; started again, the script goes on. About 0.1 s a vacancy on one core.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from ase import Atoms
from rich.console import Console
from rich.progress import track

from cgcnn_ase.data.dataset import read_packed
from cgcnn_ase.defects.costs import SupercellEstimator
from cgcnn_ase.defects.point import point_defects
from cgcnn_ase.energies.interface import CHGNetEnergy
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.zoo.defect_data import published_vacancies

#: hosts, and vacancies of each, at most
N_HOSTS, N_SITES = 2000, 8
MIN_DISTANCE, MAX_ATOMS = 6.0, 100
#: eV; larger energies are of structures that the potential does not know
LARGEST = 40.0


def oxides(data: Path, held_out: set[str]) -> dict[str, Geometry]:
    """Oxides of the training split of mp36k in a random order that takes rare elements first."""
    ids, structures = read_packed(data / "mp36k")
    table = pd.read_csv(data / "mp36k" / "properties.csv.gz", keep_default_na=False, na_values=[""])
    result = {
        str(name): shape
        for name, shape, split, energy in zip(
            ids, structures, table["split"], table["formation_energy_per_atom"], strict=True
        )
        if split == "train"
        and energy < 0
        and 8 in shape.numbers
        and 1 not in shape.numbers
        and 3 <= len(shape.numbers) <= 20
        and len(set(shape.numbers)) > 1
        and max(shape.numbers) < 84
        and composition_key(shape.numbers) not in held_out
    }
    count = np.bincount(np.concatenate([np.unique(shape.numbers) for shape in result.values()]))
    weight = np.array([(1 / count[np.unique(shape.numbers)].min()) ** 0.5 for shape in result.values()])
    order = np.random.default_rng(0).choice(len(result), len(result), replace=False, p=weight / weight.sum())
    names = list(result)
    return {names[k]: result[names[k]] for k in order[:N_HOSTS]}


def hosts(data: Path) -> dict[str, Geometry]:
    """Those of the published training splits, then oxides of mp36k."""
    published = [(f"{each.name}-{h.id}", h) for each in published_vacancies(data) for h in each.hosts]
    held_out = {composition_key(h.structure.numbers) for _, h in published if h.split != "train"}
    structures = {name: h.structure for name, h in published if h.split == "train" and len(h.structure.numbers) <= 60}
    return structures | oxides(data, held_out)


def labels(name: str, shape: Geometry, estimate: SupercellEstimator) -> Iterator[tuple[str, int, float]]:
    """Host, site and energy (eV) of some vacancies of a host; none where its supercell would be too large."""
    host = Atoms(shape.numbers, shape.positions, cell=shape.cell, pbc=True)
    try:
        result = list(point_defects(host, min_distance=MIN_DISTANCE, max_atoms=MAX_ATOMS, name=name))
    except ValueError as error:
        Console(stderr=True).print(f"left out: {error}")
        return
    rng = np.random.default_rng(len(shape.numbers))
    if len(result) > N_SITES:
        result = [result[k] for k in sorted(rng.choice(len(result), N_SITES, replace=False))]
    for cost in estimate(name, host, result):
        if abs(cost.energy) < LARGEST and cost.site_index is not None:
            yield name, cost.site_index, cost.energy


def pack(folder: Path, structures: dict[str, Geometry], table: pd.DataFrame) -> None:
    """Write the files that :func:`cgcnn_ase.zoo.defect_data.packed_vacancies` reads."""
    names = list(dict.fromkeys(table["host"]))
    shapes = [structures[name] for name in names]
    np.savez_compressed(
        folder / "structures.npz",
        ids=np.array(names),
        lattice=np.stack([shape.cell for shape in shapes]),
        offsets=np.cumsum([0, *(len(shape.numbers) for shape in shapes)]),
        numbers=np.concatenate([shape.numbers for shape in shapes]),
        frac=np.concatenate([shape.positions @ np.linalg.inv(shape.cell) for shape in shapes]),
    )
    pd.DataFrame({"material_id": names, "split": ""}).to_csv(folder / "properties.csv.gz", index=False)
    table.to_csv(folder / "vacancies.csv.gz", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    file = chosen.output / "labels.csv"
    if not file.exists():
        file.write_text("host,site_index,energy\n")
    done = set(pd.read_csv(file, dtype={"host": str})["host"])
    structures = hosts(chosen.data)
    todo = [name for name in structures if name not in done]
    estimate = SupercellEstimator(CHGNetEnergy())
    for name in track(todo, description="Labelling", console=Console(stderr=True)):
        rows = list(labels(name, structures[name], estimate))
        with file.open("a", newline="") as lines:
            csv.writer(lines).writerows(rows)
    pack(chosen.output, structures, pd.read_csv(file, dtype={"host": str}))


if __name__ == "__main__":
    main()
