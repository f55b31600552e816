"""ALIGNN: graphs, line graphs and forward passes against the PyPI package alignn, and the cost of training.

The peer needs an environment of its own, given by ``--peer``: ``pip install torch==2.13.0 dgl==1.1.3
alignn==2026.8.11``. Both get the same crystals, sizes and weights in the same run. Times are seconds of the processor
on one thread, so that other work on the machine does not enter. On the same bonds the two must agree in value; a
crystal in which an atom is its own neighbour is left out there (see cgcnn_ase.graphs.crystal_graph).
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Table, finish, parser
from _structures import cache_folder, echo_stderr, structures
from ase.data import chemical_symbols
from torch import Tensor, nn

from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry
from cgcnn_ase.nn.alignn import ALIGNN, ALIGNNConfig, Expansion
from cgcnn_ase.nn.layers import EdgeGatedConvolution
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.training.config import PRESETS

GRAPH = GraphConfig(line_graph=True, merge=True)
WHOLE = replace(GRAPH, merge=False)


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--n", type=int, default=128, help="crystals")
    made.add_argument("--batch", type=int, default=32, help="crystals in a forward pass")
    made.add_argument("--features", type=int, default=64, help="length of all vectors")
    made.add_argument("--layers", type=int, default=2, help="on the line graph, and as many on the graph alone")
    made.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    made.add_argument("--peer", type=Path, help="Python of an environment with the package alignn")
    made.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute")
    return made.parse_args()


def main() -> None:
    chosen = options()
    torch.set_num_threads(1)
    named, source = structures(chosen.n, chosen.data)
    crystals = [structure for _, structure in named]
    size = chosen.features
    config = ALIGNNConfig(n_features=size, n_alignn=chosen.layers, n_gcn=chosen.layers)
    network = random_network(config)
    table = Table(
        f"ALIGNN with {chosen.layers} + {chosen.layers} layers of {size}, {chosen.n} crystals {source}",
        ["what", "bonds", "pairs of bonds", "graph ms", "forward ms", "total ms", "times faster than alignn"],
        notes=["ms of the processor a crystal, one thread"],
    )
    peer = None if chosen.peer is None else against_peer(chosen, crystals, network)
    rows = {"cgcnn-ase": GRAPH, "cgcnn-ase, nothing merged": WHOLE}
    for name, graph in rows.items():
        table.rows.append([name, *ours(crystals, network, graph, chosen), None])
    if peer is not None:
        total = peer["graph"] + peer["forward"]
        for row in table.rows:
            row[-1] = total / row[-2]  # type: ignore[index]
        table.rows.append(["alignn", peer["edges"], peer["lines"], peer["graph"], peer["forward"], total, 1.0])
        table.notes.append(peer["agreement"])
    finish([table, training_table(crystals, chosen)], chosen.output, vars(chosen))


def random_network(config: ALIGNNConfig) -> Network:
    """In evaluation, with running statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = Network(NetworkConfig(architecture=config)).eval()
    for name, tensor in network.state_dict().items():
        if "running" in name:
            tensor.add_(torch.rand_like(tensor) / 4)
    return network


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Of the processor, the best of so many."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def ours(crystals: list[Geometry], network: Network, config: GraphConfig, chosen: argparse.Namespace) -> list[float]:
    """Bonds, pairs, and ms a crystal of graphs, forward passes, and both."""
    parts = [crystals[k : k + chosen.batch] for k in range(0, len(crystals), chosen.batch)]
    build_graphs(parts[0], config)
    graphs = [build_graphs(part, config) for part in parts]
    built = seconds(lambda: [build_graphs(part, config) for part in parts], chosen.repeats)
    with torch.inference_mode():
        passed = seconds(lambda: [network(graph, "torch") for graph in graphs], chosen.repeats)
    lines = sum(len(graph.lines.targets) for graph in graphs if graph.lines is not None)
    ms = [1000 * t / len(crystals) for t in (built, passed, built + passed)]
    echo_stderr(f"{config}: {ms[2]:.2f} ms a crystal")
    return [sum(len(graph.centers) for graph in graphs), lines, *ms]


def against_peer(chosen: argparse.Namespace, crystals: list[Geometry], network: Network) -> dict[str, Any]:
    """What the other package takes, and how far its values on our bonds are from ours."""
    graph = build_graphs(crystals, WHOLE)
    model = network.architecture
    assert isinstance(model, ALIGNN)
    assert graph.vectors is not None
    names = ("n_features", "n_alignn", "n_gcn", "n_distances", "n_cosines", "n_embedding")
    sizes = {name: getattr(model.config, name) for name in names}
    sizes |= {"threads": 1, "batch": chosen.batch, "repeats": chosen.repeats}
    shift = torch.repeat_interleave(graph.n_nodes.cumsum(0) - graph.n_nodes, graph.n_edges)
    path = cache_folder()
    np.savez(
        path / "alignn-in.npz",
        sizes=json.dumps(sizes),
        lattice=[c.cell for c in crystals],
        positions=np.concatenate([c.positions for c in crystals]),
        symbols=[chemical_symbols[z] for z in graph.numbers.tolist()],
        features=model.atom_embedding.layer.descriptors[graph.numbers].numpy(),
        n_atoms=graph.n_nodes.numpy(),
        n_edges=graph.n_edges.numpy(),
        centers=(graph.centers - shift).numpy(),
        neighbors=(graph.neighbors - shift).numpy(),
        vectors=graph.vectors.numpy(),
        **{f"w:{name}": tensor.detach().numpy() for name, tensor in their_names(network).items()},
    )
    script = Path(__file__).with_name("_alignn_peer.py")
    subprocess.run(
        [chosen.peer, script, path / "alignn-in.npz", path / "alignn-out.json"],
        check=True, cwd=path, env={"OMP_NUM_THREADS": "1", "DGLBACKEND": "pytorch", "HOME": str(path)},
    )  # fmt: skip
    result: dict[str, Any] = json.loads((path / "alignn-out.json").read_text())
    assert result["weights"] == sum(p.numel() for p in network.parameters())
    same = ~has_own_images(graph)
    with torch.inference_mode():
        values = network(graph, "torch").value[same, 0]
    difference = (values - torch.tensor(result["values"])[same]).abs().max()
    result["agreement"] = (
        f"on the same bonds and weights the two differ by {difference:.1e} at most, in {int(same.sum())} crystals "
        f"whose values spread by {values.std():.1e}"
    )
    return result


def has_own_images(graph: CrystalGraph) -> Tensor:
    """Whether any atom of a crystal is its own neighbour, (B,)."""
    is_image = (graph.centers == graph.neighbors).split(graph.n_edges.tolist())
    return torch.stack([part.any() for part in is_image])


def their_names(network: Network) -> dict[str, Tensor]:
    """Our weights by the names of the other package."""
    model = network.architecture
    assert isinstance(model, ALIGNN)
    result: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        result.update({f"{name}.{key}": tensor for key, tensor in module.state_dict().items()})

    def put_expansion(name: str, expansion: Expansion) -> None:
        for k, dense in enumerate((expansion.hidden, expansion.out), start=1):
            put(f"{name}.{k}.layer.0", dense.layer)
            put(f"{name}.{k}.layer.1", dense.norm)

    def put_convolution(name: str, layer: EdgeGatedConvolution) -> None:
        maps = ("dst_gate", "src_gate", "src_update", "dst_update")  # ours: A of the centre, B, U, V
        for key, weight, bias in zip(maps, layer.node.weight.chunk(4), layer.node.bias.chunk(4), strict=True):
            result.update({f"{name}.{key}.weight": weight, f"{name}.{key}.bias": bias})
        put(f"{name}.edge_gate", layer.edge)
        put(f"{name}.bn_edges", layer.edge_norm)
        put(f"{name}.bn_nodes", layer.node_norm)

    put("atom_embedding.layer.0", model.atom_embedding.layer.linear)
    put("atom_embedding.layer.1", model.atom_embedding.norm)
    put_expansion("edge_embedding", model.bond_embedding)
    put_expansion("angle_embedding", model.angle_embedding)
    for k, layer in enumerate(model.alignn_layers):
        put_convolution(f"alignn_layers.{k}.node_update", layer.on_bonds)
        put_convolution(f"alignn_layers.{k}.edge_update", layer.on_angles)
    for k, layer in enumerate(model.gcn_layers):
        put_convolution(f"gcn_layers.{k}", layer)
    put("fc", network.head.out)
    return result


def training_table(crystals: list[Geometry], chosen: argparse.Namespace) -> Table:
    """Forward and backward passes of the preset alignn-small."""
    table = Table(
        "Training alignn-small: forward and backward, batches of 64",
        ["engine", "ms/crystal", "first pass s"],
        notes=["of the processor, one thread; the first pass includes the compilation"],
    )
    graph, config = PRESETS["alignn-small"]
    batches = [build_graphs(crystals[k : k + 64], graph) for k in range(0, len(crystals), 64)]
    for name in ("torch", "dgl", "compiled"):
        if name == "compiled" and chosen.no_compile:
            continue
        torch.manual_seed(0)
        network = Network(NetworkConfig(architecture=config))
        if name == "compiled":
            network.compile(dynamic=True)
        engine = "dgl" if name == "dgl" else "torch"

        def step(network: Network = network, engine: Any = engine) -> None:
            for batch in batches:
                network(batch, engine).value.sum().backward()

        first = seconds(step, 1)
        table.rows.append([name, 1000 * seconds(step, chosen.repeats) / len(crystals), first])
        echo_stderr(f"training, {name}: {table.rows[-1][1]:.2f} ms a crystal")
    return table


if __name__ == "__main__":
    main()
