"""Architectures with the graphs they read, by name, ready to train."""

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.network import AnyConfig

PRESETS: dict[str, tuple[GraphConfig, AnyConfig]] = {
    # as published: 4.03 million weights
    "alignn": (GraphConfig(line_graph=True, merge=True), ALIGNNConfig()),
    # one that a laptop can train, and that tells the structures of an element apart
    "alignn-small": (
        GraphConfig(line_graph=True, merge=True),
        ALIGNNConfig(
            n_features=64,
            n_alignn=2,
            n_gcn=2,
            n_embedding=32,
            n_distances=40,
            n_cosines=20,
            norm="layer",
            embedding="both",
            edge_messages=True,
        ),
    ),
}


def preset(name: str) -> tuple[GraphConfig, AnyConfig]:
    """The graph and the network of a name.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
