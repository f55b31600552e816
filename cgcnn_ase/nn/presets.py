"""Architectures with the graphs they read, by name, ready to train."""

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.alignn import ALIGNNConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNNConfig
from cgcnn_ase.nn.network import AnyConfig

#: the 12 nearest neighbours within 8 Å
TWELVE_NEAREST = GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12)

PRESETS: dict[str, tuple[GraphConfig, AnyConfig]] = {
    # Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), equation 5 and the defaults of their code
    "cgcnn-2018": (TWELVE_NEAREST, CGCNNConfig(n_features=64, n_convolutions=3, n_hidden=128)),
    # the same paper's equation 4: no gate, no norm, and a weighted sum over atoms and layers
    "cgcnn-2018-eq4": (
        TWELVE_NEAREST,
        CGCNNConfig(n_convolutions=3, n_hidden=128, convolution="simple", norm="none", pooling="softmax"),
    ),
    # Yamamoto (2019), the complete model
    "cgnn": (GraphConfig(rule="coordinator"), CGNNConfig()),
    # detection of a single point defect in a large cell: the largest value of all atoms, where a mean would be 1 in N
    "cgcnn-defects-max": (TWELVE_NEAREST, CGCNNConfig(pooling="max", dropout=0.5)),
    # Choudhary and DeCost, npj Comput. Mater. 7, 185 (2021), as published: 4.03 million weights
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

    Examples
    --------
    >>> graph, architecture = preset("cgnn")
    >>> graph.rule, architecture.n_features
    ('coordinator', 96)
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
