"""Settings of architectures, with the graphs they read, by name, ready to train."""

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.architecture import ArchitectureConfig

PRESETS: dict[str, tuple[GraphConfig, ArchitectureConfig]] = {
    name: settings for kind in ArchitectureConfig.kinds().values() for name, settings in kind.presets().items()
}


def preset(name: str) -> tuple[GraphConfig, ArchitectureConfig]:
    """Return the graph and the network of a name.

    Examples
    --------
    >>> graph, architecture = preset("cgnn")
    >>> graph.rule, architecture.n_features
    ('coordinator', 96)
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, list(PRESETS))
    return PRESETS[name]
