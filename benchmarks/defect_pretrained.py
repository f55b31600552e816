"""What the pretrained detectors say of hosts that they have not seen: by kind, displacements and cathode.

    python benchmarks/defect_pretrained.py --output docs/data/defect_pretrained.json

Layers are those of the test split in 6x6 cells. A place is named rightly where the site of the highest probability is
one of the atoms where the defect is: the wrong atom, or one of the nearest around a vacancy.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Table, finish, parser
from _structures import DEFAULT_DATA, require

from cgcnn_ase import load_model
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.defects.point import SINGLE
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.prediction.evaluation import evaluate_model
from cgcnn_ase.zoo.defect_data import (
    CATHODES,
    layers,
    prepare_cells,
    prepare_places,
    split_hosts,
)
from cgcnn_ase.zoo.detection_cells import (
    CATHODE_KINDS,
    DetectionCell,
    DetectionConfig,
    cathode_cells,
    detection_cells,
    elements_of,
)

RATTLES = (0.0, 0.02, 0.05)
COLUMNS = ("defect", "cells", "right, %", "± (binomial)", "of defective, %", "of perfect, %", "place named, %")


def probabilities(model: CrystalModel, data: PreparedData) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of class 1, for each cell or site."""
    from cgcnn_ase.prediction.evaluation import ClassificationEvaluation

    result = evaluate_model(model, data.graphs, data.rows("test"), data.sample_names("test"), data.labels("test")[:, 0])
    assert isinstance(result, ClassificationEvaluation)
    p: np.ndarray[Any, np.dtype[np.float64]] = result.probabilities[:, 1]
    return p


def row(name: str, cells: Sequence[DetectionCell], whole: CrystalModel, sites: CrystalModel) -> list[Any]:
    """What both models say of cells, defective and perfect in turn."""
    split = {cell.host: "test" for cell in cells}
    defective = np.array([cell.defective for cell in cells])
    right = (probabilities(whole, prepare_cells(cells, split, whole.graph)) > 0.5) == defective
    p = float(right.mean())
    of_sites = prepare_places([cell for cell in cells if cell.defective], split, sites.graph)
    probabilities_of_sites = probabilities(sites, of_sites)
    owner = of_sites.graphs.node_owner()
    first = np.searchsorted(owner, np.arange(defective.sum() + 1))
    named = [of_sites.targets[a + probabilities_of_sites[a:b].argmax(), 0] == 1 for a, b in pairwise(first.tolist())]
    error = 100 * float(np.sqrt(p * (1 - p) / len(cells)))
    return [
        name,
        len(cells),
        100 * p,
        error,
        100 * float(right[defective].mean()),
        100 * float(right[~defective].mean()),
        100 * float(np.mean(named)),
    ]


def main() -> None:
    """Command line."""
    made = parser(str(__doc__), data=False)
    made.add_argument("--data", type=Path, default=DEFAULT_DATA.parent, help="folder that holds the data sets")
    made.add_argument("--model", default="defect-detection")
    made.add_argument("--sites", default="defect-sites")
    made.add_argument("--quick", action="store_true", help="few hosts and small cells; the figures mean little")
    options = made.parse_args()
    require(options.data, "2dmatpedia_subset", "jarvis_vacancydb")
    torch.set_num_threads(1)
    whole, sites = load_model(options.model), load_model(options.sites)
    every = layers(options.data)
    split = split_hosts(every)
    dopants = elements_of(host.atoms for host in every)
    hosts = [(host.name, host.atoms) for host in every if split[host.name] == "test"][: 10 if options.quick else None]
    tables = []
    for rattle in RATTLES:
        table = Table(f"Layers, displacements {rattle:g} Å", COLUMNS)
        for kind in SINGLE:
            config = DetectionConfig(kinds=(kind,), supercell=2 if options.quick else 6, rattle=rattle)
            table.rows.append(row(kind, list(detection_cells(hosts, config, dopants=dopants)), whole, sites))
            sys.stderr.write(f"{table.title}: {table.rows[-1]}\n")
        tables.append(table)
    for rattle in RATTLES[:2]:
        table = Table(f"Cathodes not learned from, displacements {rattle:g} Å", COLUMNS)
        for name in CATHODES["test"]:
            cells = list(cathode_cells([name], num=2 if options.quick else 20, rattle=rattle, seed=100))
            for kind in CATHODE_KINDS:
                pairs = [k for k in range(0, len(cells), 2) if cells[k].kind == kind]
                pair = [cells[k + step] for k in pairs for step in (0, 1)]
                table.rows.append(row(f"{name}, {kind}", pair, whole, sites))
                sys.stderr.write(f"{table.title}: {table.rows[-1]}\n")
        tables.append(table)
    finish(
        tables, options.output, {key: value for key, value in vars(options).items() if key not in ("data", "output")}
    )


if __name__ == "__main__":
    main()
