"""Why mean pooling does not see a defect: how far it moves the crystal's vector, against the size of the cell.

    python benchmarks/defect_dilution.py --output docs/data/defect_dilution.json \\
        --picture docs/images/defect_dilution.png

The vectors of the atoms are those of the pretrained network of the formation energy; only the pooling differs. A
distance is that between a defective cell and its perfect one, in units of the spread of the perfect cells over hosts:
root mean square over the components.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import machine, parser
from _structures import DEFAULT_DATA, require

from cgcnn_ase import load_model
from cgcnn_ase.graphs.builder import build_graphs
from cgcnn_ase.nn.pooling import Pooling
from cgcnn_ase.zoo.defect_data import NamedHost, layers
from cgcnn_ase.zoo.detection_cells import DetectionConfig, detection_cells

POOLINGS = ("mean", "max", "contrast")
SIZES = (2, 3, 4, 6, 8)
_AT_ONCE = 32


def vectors(hosts: list[NamedHost], n: int) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Pooled vectors of defective and perfect cells, one after the other, by pooling; the atoms of the perfect ones."""
    model = load_model()
    network = model.networks[0].eval()
    config = DetectionConfig(kinds=("vacancy",), supercell=n)
    cells = list(detection_cells([(host.name, host.atoms) for host in hosts], config))
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in POOLINGS}
    for k in range(0, len(cells), _AT_ONCE):
        graph = build_graphs([cell.atoms for cell in cells[k : k + _AT_ONCE]], model.graph)
        with torch.inference_mode():
            atoms = network.architecture.atoms(graph)
            for name in POOLINGS:
                parts[name].append(Pooling(name, atoms[-1].shape[1])(graph, atoms))
    return {name: torch.cat(parts_of_pooling).double() for name, parts_of_pooling in parts.items()}, [
        len(c.atoms) for c in cells[1::2]
    ]


def moved(pooled: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Distance of each pair over the spread of the perfect cells, (hosts,)."""
    defective, perfect = pooled[::2], pooled[1::2]
    spread = perfect.var(dim=0).sum().sqrt()
    distances: np.ndarray[Any, np.dtype[np.float64]] = ((defective - perfect).norm(dim=1) / spread).numpy()
    return distances


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Distance against the number of atoms, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.4), constrained_layout=True)
    for name, color in zip(POOLINGS, ("tab:red", "tab:blue", "tab:green"), strict=True):
        rows_of_pooling = [row for row in rows if row["pooling"] == name]
        x = [row["atoms"] for row in rows_of_pooling]
        y = [row["distance"] for row in rows_of_pooling]
        axes.loglog(x, y, "o-", color=color, label=name)
        if name == "mean":
            axes.loglog(x, [y[0] * x[0] / n for n in x], ":", color=color, label="1 / N")
    axes.axhline(1.0, color="grey", lw=0.8)
    axes.text(x[0], 1.05, "spread over hosts", color="grey", fontsize=8)
    axes.set_xticks(x, [f"{row['cell']}×{row['cell']}\n{row['atoms']:.0f}" for row in rows_of_pooling], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("cell, atoms (median)")
    axes.set_ylabel("shift of the crystal's vector\nby one vacancy / spread")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Command line."""
    made = parser(str(__doc__), data=False)
    made.add_argument("--data", type=Path, default=DEFAULT_DATA.parent, help="folder that holds the data sets")
    made.add_argument("--picture", type=Path)
    made.add_argument("--hosts", type=int, default=100)
    options = made.parse_args()
    require(options.data, "2dmatpedia_subset", "jarvis_vacancydb")
    torch.set_num_threads(1)
    every = layers(options.data)
    hosts = every[:: max(1, len(every) // options.hosts)]
    rows = []
    for n in SIZES:
        result, atoms = vectors(hosts, n)
        for name, pooled in result.items():
            distances = moved(pooled)
            rows.append(
                {"pooling": name, "cell": n, "atoms": float(np.median(atoms)), "distance": float(np.median(distances))}
            )
            print(rows[-1])
    if options.output is not None:
        content = {"machine": machine(), "hosts": len(hosts), "rows": rows}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.picture is not None:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
