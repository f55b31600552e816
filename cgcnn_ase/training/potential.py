r"""Train a potential on energies, forces and stress.

Forces are derivatives, so that their loss would need second derivatives of the network. Instead a step goes in two
passes: the first gives energies and derivatives, and from the loss how it changes with each of them, u_ij with the
derivative by the vector r_ij of an edge. The second gives the same gradient of the weights from first derivatives
alone, as

.. math:: \sum_{ij} u_{ij} \cdot \frac{\partial E}{\partial r_{ij}}
    = \frac{E(r + \epsilon u) - E(r - \epsilon u)}{2 \epsilon} + O(\epsilon^2)
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.targets import Scaler, TargetSpec
from cgcnn_ase.data.frames import Frames, element_energies
from cgcnn_ase.graphs.builder import GraphConfig, build_graph
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, batch, crystal_index
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.nn.smooth import SmoothCGCNN, SmoothCGCNNConfig, SmoothConvolution
from cgcnn_ase.potential.potential import edge_gradients, forces, stress, sum_by_crystal, vectors_of
from cgcnn_ase.training.callbacks import BEST, HISTORY, LAST, make_trainer
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import quiet_lightning
from cgcnn_ase.training.module import EpochSampler

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

TARGET = TargetSpec(name="total_energy_per_atom", unit="eV/atom", per_atom=True)
# longest displacement of an edge in the second pass, Å
STEP = 0.01
# errors from which on losses grow linearly: eV/atom, eV/Å, eV/Å^3
_ENERGY, _FORCE, _STRESS = 0.02, 0.1, 0.01
# forces count for less from about this size on, eV/Å
_LARGE = 5.0


@dataclass(frozen=True, kw_only=True)
class FrameLoss:
    """Weights of the losses of a potential; each loss is a Huber loss in units of its own usual error."""

    energy: float = 4.0
    forces: float = 1.0
    stress: float = 0.3
    n_heads: int = 8  # members on one network; each sees the energies of the frames with random weights of its own


class FrameBatch(NamedTuple):
    """Frames side by side."""

    graph: CrystalGraph
    energies: Tensor  # (B,) eV, without the energies of the elements
    forces: Tensor  # (N, 3) eV/Å
    stress: Tensor  # (B, 3, 3) eV/Å^3, NaN where there is none
    weights: Tensor  # (B, H) of each frame for each head


class FrameSamples(Dataset[FrameBatch]):
    """Frames with their graphs, handed out in whole batches."""

    def __init__(self, frames: Frames, graph: GraphConfig, elements: Floats, *, n_heads: int, seed: int) -> None:
        self.graphs = [build_graph(structure, graph) for structure in frames.structures]
        energies = frames.energies - frames.counts @ elements
        self.energies = torch.tensor(energies, dtype=torch.float32)
        self.forces = [torch.tensor(each, dtype=torch.float32) for each in frames.forces]
        self.stress = torch.tensor(frames.stress, dtype=torch.float32)
        # the Bayesian bootstrap of Rubin (1981)
        weights = np.random.default_rng(seed).exponential(size=(len(frames), n_heads))
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, rows: Sequence[int]) -> FrameBatch:
        """The batch of these frames."""
        chosen = torch.as_tensor(rows)
        return FrameBatch(
            batch([self.graphs[k] for k in rows]),
            self.energies[chosen],
            torch.cat([self.forces[k] for k in rows]),
            self.stress[chosen],
            self.weights[chosen],
        )

    def loader(self, batch_size: int, seed: int | None = None) -> DataLoader[FrameBatch]:
        """Batches, shuffled with a seed and in order without."""
        sampler = EpochSampler(np.arange(len(self)), batch_size, seed)
        return DataLoader(self, batch_size=None, sampler=sampler, collate_fn=_whole)


def _whole(each: object) -> FrameBatch:
    """There is nothing left to collate."""
    assert isinstance(each, FrameBatch)
    return each


class FrameModule(pl.LightningModule):
    """Trains a :class:`Network` of a smooth architecture; ``val_error`` is the mean error of the forces, eV/Å."""

    def __init__(self, network: Network, scale: float, config: TrainConfig, loss: FrameLoss) -> None:
        super().__init__()
        self.network, self.scale, self.config, self.loss = network, scale, config, loss
        self.errors = torch.nn.ModuleDict({name: MeanMetric() for name in ("energy", "error", "stress")})
        self._vectors = self.architecture.of_vectors
        if config.compile:
            self._vectors = torch.compile(self.architecture.of_vectors, dynamic=True)

    @property
    def architecture(self) -> SmoothCGCNN:
        """The smooth network."""
        assert isinstance(self.network.architecture, SmoothCGCNN)
        return self.network.architecture

    def _energies(self, graph: CrystalGraph, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of each head, (B, H) eV without those of the elements, and the vectors of the atoms, (N, F)."""
        h = self._vectors(graph, vectors, "torch", self.architecture.slots(graph))
        return self.scale * sum_by_crystal(graph, self.network.head.out(h)), h

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        """A scalar with the gradient of the loss, see the top of this file; the loss itself is logged."""
        del batch_idx
        graph, vectors = batch.graph, vectors_of(batch.graph)
        leaf = vectors.detach().requires_grad_()
        energies, _ = self._energies(graph, leaf)
        gradients = edge_gradients(energies.mean(dim=1).sum(), leaf).requires_grad_()
        energies = energies.detach().requires_grad_()
        loss, force_errors = self._loss(batch, energies, gradients)
        by_energy, by_gradient = torch.autograd.grad(loss, (energies, gradients))
        of_edge = crystal_index(graph).index_select(0, graph.centers)
        longest = by_gradient.new_zeros(len(graph.n_nodes)).scatter_reduce(0, of_edge, by_gradient.norm(dim=1), "amax")
        epsilon = STEP / longest.clamp(min=1e-12)
        shift = by_gradient * epsilon.index_select(0, of_edge)[:, None]
        ahead, h = self._energies(graph, vectors + shift)
        behind, _ = self._energies(graph, vectors - shift)
        slope = (ahead.mean(dim=1) - behind.mean(dim=1)) / (2.0 * epsilon)
        log_scale = self.architecture.force_error(h.detach())[:, 0]
        # minus the logarithm of a Laplace likelihood
        of_error = (log_scale[:, None] + force_errors.detach() / self.scale * torch.exp(-log_scale[:, None])).mean()
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch.energies))
        total: Tensor = (by_energy * 0.5 * (ahead + behind)).sum() + slope.sum() + of_error
        return total

    def _loss(self, batch: FrameBatch, energies: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the sizes of the errors of the forces, (N, 3) eV/Å."""
        graph, zero = batch.graph, torch.zeros_like
        of_energy = (energies - batch.energies[:, None]) / graph.n_nodes[:, None]
        of_forces = forces(graph, gradients) - batch.forces
        of_stress = (stress(graph, gradients) - batch.stress)[batch.stress.isfinite().all(dim=(1, 2))]
        weights = 1.0 / (1.0 + batch.forces.norm(dim=1, keepdim=True) / _LARGE)
        energy_losses = huber_loss(of_energy, zero(of_energy), delta=_ENERGY, reduction="none")
        force_losses = huber_loss(of_forces, zero(of_forces), delta=_FORCE, reduction="none")
        loss = self.loss.energy * (batch.weights * energy_losses).mean() / _ENERGY
        loss = loss + self.loss.forces * (weights * force_losses).mean() / _FORCE
        if len(of_stress):
            loss = loss + self.loss.stress * huber_loss(of_stress, zero(of_stress), delta=_STRESS) / _STRESS
        return loss, of_forces.abs()

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        """Collect errors."""
        del batch_idx
        with torch.inference_mode(False), torch.enable_grad():
            graph = batch.graph
            leaf = vectors_of(graph).clone().requires_grad_()
            energies = self._energies(graph, leaf)[0].mean(dim=1)
            gradients = edge_gradients(energies.sum(), leaf)
        of_stress = (stress(graph, gradients) - batch.stress).abs()
        self._metric("energy").update(((energies.detach() - batch.energies) / graph.n_nodes).abs())
        self._metric("error").update((forces(graph, gradients) - batch.forces).abs())
        if len(known := of_stress[of_stress.isfinite()]):
            self._metric("stress").update(known)

    def on_validation_epoch_end(self) -> None:
        """Record mean absolute errors: ``val_energy`` (eV/atom), ``val_error`` (eV/Å), ``val_stress`` (eV/Å^3)."""
        for name in self.errors:
            if self._metric(name).update_called:
                self.log(f"val_{name}", self._metric(name).compute())
                self._metric(name).reset()

    def _metric(self, name: str) -> MeanMetric:
        metric = self.errors[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def configure_optimizers(self) -> "OptimizerLRScheduler":
        """AdamW, one cycle over all steps."""
        optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=self.config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.05,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def deepened(network: Network, n_convolutions: int) -> Network:
    """A copy with this many convolutions, of which the new ones, behind the others, change nothing before training."""
    old = network.config.architecture
    if not isinstance(old, SmoothCGCNNConfig) or n_convolutions <= old.n_convolutions:
        return deepcopy(network)
    new = Network(replace(network.config, architecture=replace(old, n_convolutions=n_convolutions)))
    new.load_state_dict(new.state_dict() | network.state_dict())
    assert isinstance(new.architecture, SmoothCGCNN)
    for each in list(new.architecture.convolutions)[old.n_convolutions :]:
        assert isinstance(each, SmoothConvolution)
        last = each.out[-1]
        for parameter in (*last.parameters(), *(() if each.products is None else each.products.parameters())):
            torch.nn.init.zeros_(parameter)
    return new


def _usual_force(frames: Frames) -> float:
    """Root mean square of the components of the forces, eV/Å, where large ones count as little as in the loss."""
    each = np.concatenate(frames.forces)
    weights = 1.0 / (1.0 + np.linalg.norm(each, axis=1, keepdims=True) / _LARGE)
    return float(np.sqrt(np.mean((weights * each) ** 2))) or 1.0


def train_potential(
    frames: Frames,
    config: TrainConfig,
    folder: Path,
    *,
    loss: FrameLoss | None = None,
    start: CrystalModel | None = None,
    resume: bool = False,
    progress: bool = True,
    stop_after: int | None = None,
) -> CrystalModel:
    """Train on the train split of frames, and return the uncalibrated potential of the last epoch.

    Checkpoints and ``history.csv`` go into ``folder``. With ``start`` its weights, its element energies and the scale
    of its forces are what training begins with; where the settings ask for more convolutions than it has, it is
    :func:`deepened`. ``resume`` and ``stop_after`` are those of
    :func:`cgcnn_ase.training.member.train_member`.

    Raises
    ------
    ValueError
        If a split has no frame, or the network is not smooth.
    """
    loss = loss or FrameLoss()
    network_config = config.network if start is None else start.networks[0].config.architecture
    if not isinstance(network_config, SmoothCGCNNConfig):
        raise ValueError(f"a potential needs the architecture smooth-cgcnn, not {network_config.architecture}")
    train, val = frames.of_split("train"), frames.of_split("val")
    if not len(train) or not len(val):
        raise ValueError(f"{len(train)} frames to train on and {len(val)} to validate: both must be there")
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for name in (BEST, LAST, HISTORY):
            (folder / name).unlink(missing_ok=True)
    with quiet_lightning(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if start is None:
            elements = element_energies(train)
            scale = _usual_force(train)
            network = Network(NetworkConfig(architecture=network_config, n_heads=loss.n_heads))
            smooth = network.architecture
            assert isinstance(smooth, SmoothCGCNN)
            smooth.element_energies.copy_(torch.from_numpy(elements / scale))
        else:
            wanted = config.network
            n = wanted.n_convolutions if isinstance(wanted, SmoothCGCNNConfig) else network_config.n_convolutions
            network, scale = deepened(start.networks[0], n).requires_grad_(True), start.scaler.std
            smooth = network.architecture
            assert isinstance(smooth, SmoothCGCNN)
            elements = smooth.element_energies.numpy() * scale
        graph = GraphConfig(rule="radius", cutoff=network_config.cutoff, vectors=True)
        module = FrameModule(network, scale, config, replace(loss, n_heads=network.config.n_heads))
        module.train()
        samples = [
            FrameSamples(part, graph, elements, n_heads=network.config.n_heads, seed=config.seed)
            for part in (train, val)
        ]
        train_loader, val_loader = (
            samples[0].loader(config.batch_size, config.seed),
            samples[1].loader(config.batch_size),
        )
        trainer = make_trainer(config, folder, progress=progress, stop_after=stop_after)
        checkpoint = folder / LAST
        ckpt_path = checkpoint if resume and checkpoint.exists() else None
        trainer.fit(module, train_loader, val_loader, ckpt_path=ckpt_path)
    state = torch.load(folder / LAST, map_location="cpu", weights_only=False)["state_dict"]
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return CrystalModel([network], graph=graph, target=TARGET, scaler=Scaler(0.0, scale))
