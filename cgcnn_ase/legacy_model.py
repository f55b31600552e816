"""The original CGCNN's ``.pth.tar`` files as models of this package."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.legacy_checkpoint import LegacyCheckpoint, read_legacy_checkpoint
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.targets import Scaler, TargetSpec

#: what the eight published files predict, by file name
PUBLISHED: dict[str, TargetSpec] = {
    "formation-energy-per-atom": TargetSpec(name="formation_energy_per_atom", unit="eV/atom", per_atom=True),
    "final-energy-per-atom": TargetSpec(name="total_energy_per_atom", unit="eV/atom", per_atom=True),
    "band-gap": TargetSpec(name="band_gap", unit="eV"),
    "efermi": TargetSpec(name="efermi", unit="eV"),
    "bulk-moduli": TargetSpec(name="bulk_modulus", unit="GPa", transform="log10"),
    "shear-moduli": TargetSpec(name="shear_modulus", unit="GPa", transform="log10"),
    "poisson-ratio": TargetSpec(name="poisson_ratio", unit="1"),
    "semi-metal-classification": TargetSpec(name="is_metal", unit="probability", task="classification"),
}

#: the graph of the original code: the 12 nearest within 8 Å, the missing ones replaced by atom 0 at 9 Å
ORIGINAL_GRAPH = GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12, padding="first-atom")


def is_legacy(path: Path) -> bool:
    """Whether a path looks like an original checkpoint."""
    return path.name.endswith((".pth.tar", ".pth", ".tar"))


def load_legacy(path: Path) -> CrystalModel:
    """Read an original checkpoint as a model.

    The target of a file with one of the eight published names is known; another's is called ``prediction`` with no
    unit.

    Raises
    ------
    UnsafeCheckpointError
        If the file asks for anything but tensors and plain values.
    ValueError
        If it is damaged or not a CGCNN.
    """
    checkpoint = read_legacy_checkpoint(path)
    stem = path.name.split(".")[0]
    unknown = TargetSpec(name="prediction", unit="", task=checkpoint.task)
    target = PUBLISHED.get(stem, unknown)
    if target.task != checkpoint.task:
        target = unknown
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn; the caller's random state stays
        network = Network(_config(checkpoint))
    network.load_state_dict({_new_name(name): tensor for name, tensor in checkpoint.state.items()} | _counters(network))
    return CrystalModel(
        [network],
        graph=ORIGINAL_GRAPH,
        target=target,
        scaler=Scaler(checkpoint.mean, checkpoint.std),
        name=stem,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        training={"source": "original CGCNN checkpoint", "epoch": checkpoint.epoch},
    )


def _config(checkpoint: LegacyCheckpoint) -> NetworkConfig:
    classification = checkpoint.task == "classification"
    return NetworkConfig(
        architecture=CGCNNConfig(
            n_features=checkpoint.atom_features,
            n_convolutions=checkpoint.n_conv,
            n_hidden=checkpoint.hidden,
            n_hidden_layers=checkpoint.n_hidden,
            n_gaussians=checkpoint.bond_features,
            cutoff=0.2 * (checkpoint.bond_features - 1),
            dropout=0.5 if classification else 0.0,
        ),
        n_outputs=2 if classification else 1,
    )


_RENAMED = {
    "embedding.": "architecture.embedding.linear.",
    "convs.": "architecture.convolutions.",
    "conv_to_fc.": "architecture.to_crystal.",
    "fcs.": "architecture.hidden.",
    "fc_out.": "head.out.",
}
_WITHIN_CONVOLUTION = {".fc_full.": ".full.", ".bn1.": ".edge_norm.", ".bn2.": ".node_norm."}


def _new_name(name: str) -> str:
    """Our name of one of the original's weights."""
    for old, new in _RENAMED.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in _WITHIN_CONVOLUTION.items():
        name = name.replace(old, new)
    return name


def _counters(network: Network) -> dict[str, Tensor]:
    """The batch counters of the norms, which the original files do not hold."""
    return {k: torch.zeros_like(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
