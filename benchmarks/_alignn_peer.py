"""The PyPI package alignn at work: ``python _alignn_peer.py INPUT.npz OUTPUT.json``, in an environment of its own.

It shares no code with cgcnn_ase. INPUT holds structures, weights, and for a check the bonds that cgcnn_ase found.
"""

import json
import sys
import time
from pathlib import Path

import dgl
import numpy as np
import torch
from alignn.graphs import Graph, compute_bond_cosines
from alignn.models.alignn import ALIGNN, ALIGNNConfig
from jarvis.core.atoms import Atoms


def main(source: Path, target: Path) -> None:
    with np.load(source) as packed:
        inputs = dict(packed)
    sizes = json.loads(str(inputs["sizes"]))
    torch.set_num_threads(sizes["threads"])
    model = network(inputs, sizes)
    crystals = [atoms(inputs, k) for k in range(len(inputs["lattice"]))]
    build(crystals[0])
    start = time.process_time()
    graphs = [build(crystal) for crystal in crystals]
    built = time.process_time() - start
    times = [forward(model, graphs, inputs, sizes["batch"])[0] for _ in range(sizes["repeats"])]
    result = {
        "graph": 1000 * built / len(crystals),
        "forward": 1000 * min(times) / len(crystals),
        "edges": sum(g.num_edges() for g, _ in graphs),
        "lines": sum(lg.num_edges() for _, lg in graphs),
        "values": forward(model, [same_bonds(inputs, k) for k in range(len(crystals))], inputs, sizes["batch"])[1],
        "weights": sum(p.numel() for p in model.parameters()),
    }
    target.write_text(json.dumps(result))


def network(arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> ALIGNN:
    model = ALIGNN(
        ALIGNNConfig(
            name="alignn",
            alignn_layers=sizes["n_alignn"],
            gcn_layers=sizes["n_gcn"],
            edge_input_features=sizes["n_distances"],
            triplet_input_features=sizes["n_cosines"],
            embedding_features=sizes["n_embedding"],
            hidden_features=sizes["n_features"],
        )
    )
    weights = {k.removeprefix("w:"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w:")}
    unknown = model.load_state_dict(weights, strict=False)
    assert not unknown.unexpected_keys, unknown
    assert all("centers" in name for name in unknown.missing_keys), unknown
    return model.eval()


def of(arrays: dict[str, np.ndarray], name: str, k: int) -> np.ndarray:
    """The rows of one crystal."""
    ends = np.cumsum(arrays[f"n_{name}"])
    return slice(ends[k] - arrays[f"n_{name}"][k], ends[k])


def atoms(arrays: dict[str, np.ndarray], k: int) -> Atoms:
    rows = of(arrays, "atoms", k)
    symbols = [str(s) for s in arrays["symbols"][rows]]
    return Atoms(lattice_mat=arrays["lattice"][k], coords=arrays["positions"][rows], elements=symbols, cartesian=True)


def build(crystal: Atoms) -> tuple[dgl.DGLGraph, dgl.DGLGraph]:
    """As its pretrained.py does; the features of the atoms come from the input."""
    return Graph.atom_dgl_multigraph(crystal, cutoff=8.0, max_neighbors=12, atom_features="atomic_number")


def same_bonds(arrays: dict[str, np.ndarray], k: int) -> tuple[dgl.DGLGraph, dgl.DGLGraph]:
    """Its line graph of the bonds that cgcnn_ase found."""
    rows = of(arrays, "edges", k)
    ends = (torch.from_numpy(arrays[name][rows]) for name in ("neighbors", "centers"))
    g = dgl.graph(tuple(ends), num_nodes=int(arrays["n_atoms"][k]))
    g.edata["r"] = -torch.from_numpy(arrays["vectors"][rows])
    lg = g.line_graph(shared=True)
    lg.apply_edges(compute_bond_cosines)
    return g, lg


def forward(
    model: ALIGNN, graphs: list[tuple[dgl.DGLGraph, dgl.DGLGraph]], arrays: dict[str, np.ndarray], size: int
) -> tuple[float, list[float]]:
    """Seconds of the processor for all forward passes, batched beforehand, and the values."""
    batches = []
    for k in range(0, len(graphs), size):
        gs, lgs = zip(*graphs[k : k + size], strict=True)
        g = dgl.batch(gs)
        first = int(arrays["n_atoms"][:k].sum())
        g.ndata["atom_features"] = torch.from_numpy(arrays["features"][first : first + g.num_nodes()])
        batches.append((g, dgl.batch(lgs), torch.eye(3)))
    start, values = time.process_time(), []
    with torch.no_grad():
        for batch in batches:
            values += model(batch).reshape(-1).tolist()
    return time.process_time() - start, values


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
