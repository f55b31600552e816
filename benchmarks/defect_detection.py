"""Remake the published table: perfect against defective supercells, by kind of defect, pooling and size of the cell.

    python benchmarks/defect_detection.py --output docs/data/defect_detection.json

Every row is one network trained on the hosts of the train split and judged on hosts that neither it nor the choice of
its settings has seen; hosts of one formula are in one split. Rows that the output file holds already are not trained
again; the table is printed in any case. ``--quick`` shows in a minute that it runs; its figures mean nothing.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Table, machine, parser
from _structures import DEFAULT_DATA, require

from cgcnn_ase.data.prepared import PreparedData, join
from cgcnn_ase.defects.point import SINGLE
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.network import Network
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import best_network, train_member
from cgcnn_ase.zoo.defect_data import CATHODES, layers, prepare_cells, split_hosts
from cgcnn_ase.zoo.detection_cells import DetectionConfig, cathode_cells, detection_cells, elements_of

POOLINGS = ("mean", "max", "gated", "contrast")
#: accuracy in per cent of the published study, 6x6 cells, max pooling
PUBLISHED = {"vacancy": 91.8, "antisite": 94.5, "substitution": 96.5, "interstitial": 96.9}
GRAPH = GraphConfig(rule="shell", angular=True, merge=True)
ALL = "all"
#: epochs of one kind; all kinds together have four times the cells, and get as many steps
EPOCHS = 10


def config(pooling: str, epochs: int, seed: int) -> TrainConfig:
    """A small CGCNN of the 2018 paper; only the pooling differs between rows."""
    network = CGCNNConfig(n_features=32, n_hidden=64, embedding="both", pooling=pooling)  # type: ignore[arg-type]
    return TrainConfig(
        graph=GRAPH, network=network, epochs=epochs, batch_size=16, learning_rate=5e-3, checkpoint="last", seed=seed
    )


def samples(data: Path, n: int, n_hosts: int | None) -> tuple[dict[str, PreparedData], int]:
    """The cells of each kind and of all; how many hosts they are of."""
    hosts = layers(data)
    split = split_hosts(hosts)
    hosts = hosts[:n_hosts]
    dopants = elements_of(host.atoms for host in hosts)
    result = {}
    for kind in SINGLE:
        cells = detection_cells(
            [(host.name, host.atoms) for host in hosts], DetectionConfig(kinds=(kind,), supercell=n), dopants=dopants
        )
        result[kind] = prepare_cells(list(cells), split, GRAPH)
    return {**result, ALL: join(list(result.values()))}, len(hosts)


def cathodes() -> PreparedData:
    """Supercells of LiNiO2, NCM811 and NCA with and without a lithium vacancy or an exchange of lithium and a metal."""
    cells = list(cathode_cells(CATHODES["test"], num=10))
    return prepare_cells(cells, {cell.host: "test" for cell in cells}, GRAPH)


def accuracy(network: Network, data: PreparedData, split: str) -> dict[str, Any]:
    """Of all cells of a split, and of either class."""
    rows = data.rows(split)
    with torch.inference_mode():
        parts = [network(data.graphs.batch(rows[k : k + 64].tolist())).value for k in range(0, len(rows), 64)]
    right = torch.cat(parts).argmax(dim=1).numpy() == data.labels(split)[:, 0]
    defective = data.labels(split)[:, 0] == 1
    p = float(right.mean())
    return {
        "n": len(rows),
        "accuracy": 100 * p,
        "error": 100 * float(np.sqrt(p * (1 - p) / len(rows))),
        "of defective": 100 * float(right[defective].mean()),
        "of perfect": 100 * float(right[~defective].mean()),
    }


def row(data: PreparedData, kind: str, n: int, pooling: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train one network and judge it."""
    settings = config(pooling, -(-epochs // len(SINGLE)) if kind == ALL else epochs, seed)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train_member(data, settings, Path(folder), progress=False)
        network = best_network(data, settings, Path(folder)).eval()
    seconds = time.process_time() - start
    judged = {split: accuracy(network, data, split) for split in ("val", "test")}
    if kind == ALL and pooling == "contrast":
        judged["cathodes, not learned from"] = accuracy(network, cathodes(), "test")
    return {"kind": kind, "cell": n, "pooling": pooling, "seed": seed, "seconds": round(seconds, 1), **judged}


def rows(options: Any, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that are not done yet."""
    known = {(r["kind"], r["cell"], r["pooling"], r["seed"]) for r in done}
    for n in options.cells:
        wanted = [
            (kind, pooling)
            for pooling in options.poolings
            for kind in options.kinds
            if (kind, n, pooling, options.seed) not in known
        ]
        if not wanted:
            continue
        data, _ = samples(options.data, n, 60 if options.quick else None)
        for kind, pooling in wanted:
            yield row(data[kind], kind, n, pooling, 2 if options.quick else EPOCHS, options.seed)


def tables(content: dict[str, Any]) -> list[Table]:
    """The figures side by side, a table for each size of cells; of several seeds the mean."""
    made = []
    for n in sorted({row["cell"] for row in content["rows"]}, reverse=True):
        rows_of_size = [row for row in content["rows"] if row["cell"] == n]
        poolings = [name for name in POOLINGS if any(row["pooling"] == name for row in rows_of_size)]
        table = Table(f"{n}x{n} cells: accuracy on hosts not seen, %", ["defect", "published, max", *poolings])
        for kind in (*SINGLE, ALL):
            published = f"{PUBLISHED[kind]}" if n == 6 and kind in PUBLISHED else None
            table.rows.append([kind, published, *(_figure(rows_of_size, kind, name) for name in poolings)])
        made.append(table)
    return made


def _figure(rows: list[dict[str, Any]], kind: str, pooling: str) -> str | None:
    """Mean and binomial error of one run; how many runs where there are several."""
    result = [row["test"] for row in rows if (row["kind"], row["pooling"]) == (kind, pooling)]
    if not result:
        return None
    p = float(np.mean([test["accuracy"] for test in result])) / 100
    words = f"{100 * p:.1f} ± {100 * np.sqrt(p * (1 - p) / result[0]['n']):.1f}"
    return words if len(result) == 1 else f"{words} ({len(result)} runs)"


def main() -> None:
    """Command line."""
    made = parser(str(__doc__), data=False)
    made.add_argument("--data", type=Path, default=DEFAULT_DATA.parent, help="folder that holds the data sets")
    made.add_argument("--cells", type=int, nargs="+", default=[6, 2], help="repeats of the layers")
    made.add_argument("--poolings", nargs="+", default=list(POOLINGS))
    made.add_argument("--kinds", nargs="+", default=[*SINGLE, ALL])
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--quick", action="store_true")
    options = made.parse_args()
    require(options.data, "2dmatpedia_subset", "jarvis_vacancydb")
    torch.set_num_threads(1)
    content: dict[str, Any] = {"machine": machine(), "published": PUBLISHED, "rows": []}
    if options.output is not None and options.output.exists():
        content |= json.loads(options.output.read_text(encoding="utf-8"))
    for result in rows(options, content["rows"]):
        content["rows"].append(result)
        test = result["test"]
        sys.stdout.write(
            f"{result['cell']}x{result['cell']} {result['kind']:12} {result['pooling']:9} "
            f"val {result['val']['accuracy']:5.1f} "
            f"test {test['accuracy']:5.1f} +- {test['error']:.1f} of {test['n']}, {result['seconds']} s\n"
        )
        sys.stdout.flush()
        if options.output is not None:
            options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n" + "\n".join(table.markdown() for table in tables(content)))


if __name__ == "__main__":
    main()
