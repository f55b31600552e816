"""CrystalModel: from graphs to a property in physical units, by one network or an ensemble of them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cgcnn_ase.core.arrays import Floats32, Ints
from cgcnn_ase.core.targets import Level, Scaler, TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.models.folder import Json, stated_scale
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.network import Network, Output
from cgcnn_ase.uncertainty import CALIBRATIONS, CalibratedPrediction, Calibration
from cgcnn_ase.uncertainty.contacts import StructureGeometry
from cgcnn_ase.uncertainty.protocol import MemberOutputs, Population

if TYPE_CHECKING:
    from typing_extensions import Self


# what a potential predicts: eV/atom on one scale, whose sum over the atoms is an energy
POTENTIAL_TARGETS = ("total_energy_per_atom", "formation_energy_per_atom")


class CrystalModel(nn.Module):
    """An ensemble of networks with the graph they read and the target they predict.

    Networks that predict several targets are several models, which share their members: see ``outputs``.

    Parameters
    ----------
    members : iterable of Network
        At least one.
    graph : GraphConfig
        How structures become graphs for these networks.
    target : TargetSpec
        What is predicted.
    scaler : Scaler
        Fitted on the training targets.
    calibration : Calibration, optional
        Calibration; without it predictions have no std.
    dropout_calibration : Calibration, optional
        The same for Monte Carlo dropout.
    name, sha256 : str
        The model's name and the hash of its weights' file, for the record.
    training : dict, optional
        What it was trained on and how: plain values.
    first_output : int
        Which of the networks' outputs is the target's first.
    """

    def __init__(
        self,
        members: Iterable[Network] | nn.ModuleList,
        *,
        graph: GraphConfig,
        target: TargetSpec,
        scaler: Scaler,
        calibration: Calibration | None = None,
        dropout_calibration: Calibration | None = None,
        name: str = "",
        sha256: str = "",
        training: Json | None = None,
        first_output: int = 0,
    ) -> None:
        super().__init__()
        self.members = members if isinstance(members, nn.ModuleList) else nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("a model needs at least one member")
        for network in self.networks:
            network.config.architecture.check_graph(graph)
        self.graph, self.target, self.scaler = graph, target, scaler
        self.calibration, self.dropout_calibration = calibration, dropout_calibration
        self.name, self.sha256, self.training_record = name, sha256, training or {}
        self.outputs = slice(first_output, first_output + target.n_outputs)
        if self.outputs.stop > self.networks[0].config.n_outputs:
            has = self.networks[0].config.n_outputs
            raise ValueError(f"{target.name} needs output {self.outputs.stop} of networks that have {has}")
        self.eval()

    @classmethod
    def like(cls, model: "CrystalModel", members: Iterable[Network] | nn.ModuleList) -> "Self":
        """Return a model of the same target, graph and calibration, with other members."""
        return cls(
            members,
            graph=model.graph,
            target=model.target,
            scaler=model.scaler,
            calibration=model.calibration,
            dropout_calibration=model.dropout_calibration,
            name=model.name,
            sha256=model.sha256,
            training=model.training_record,
            first_output=model.outputs.start,
        )

    @property
    def networks(self) -> list[Network]:
        """The members as networks."""
        return [member for member in self.members if isinstance(member, Network)]

    @property
    def dropout(self) -> float:
        """Dropout probability that the members were trained with."""
        return float(self.networks[0].config.architecture.dropout)

    @property
    def is_potential(self) -> bool:
        """True if the prediction is a smooth function of the positions, so that forces exist."""
        return self.networks[0].config.architecture.is_smooth and self.target.name in POTENTIAL_TARGETS

    @property
    def scale(self) -> str | None:
        """Scale of the energies that it predicts (see :mod:`cgcnn_ase.energies.scales`).

        None of another property, and where the record of the training does not say.
        """
        return stated_scale(self.training_record, is_potential=self.is_potential)

    @property
    def n_members(self) -> int:
        """Members of the ensemble: the heads of all networks."""
        return sum(network.config.n_heads for network in self.networks)

    def check_level(self, level: Level, what: str) -> None:
        """Raise where something is asked of crystals and the model predicts sites, or the other way round."""
        if self.target.level != level:
            wanted = {"crystal": "crystals", "site": "sites"}
            raise ValueError(
                f"the model {self.name!r} predicts {wanted[self.target.level]}; {what} needs one of {wanted[level]}"
            )

    def check_dropout(self, n_dropout: int) -> None:
        """Raise where Monte Carlo dropout would say nothing: of one sample, or of members trained without dropout."""
        if n_dropout < 2:
            raise ValueError(f"n_dropout must be at least 2 to have a spread, not {n_dropout}")
        if self.dropout == 0.0:
            raise ValueError(
                f"n_dropout needs a model trained with dropout; {self.name!r} was trained without, so switching "
                "parts of it off would show nothing about its uncertainty. The spread of an ensemble needs no n_dropout"
            )

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Crystal embeddings of each member before its head, (B, P)."""
        return [network.pooled(graph, engine) for network in self.networks]

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> MemberOutputs:
        """One deterministic prediction of each member."""
        return self.read(self.pooled(graph, engine))

    def read(self, pooled: list[Tensor]) -> MemberOutputs:
        """The prediction of each member from its crystal embeddings, (B, P)."""
        outputs = [out for network, p in zip(self.networks, pooled, strict=True) for out in network.read_heads(p)]
        return self._member_outputs(outputs, pooled[0])

    def sample(self, graph: CrystalGraph, n_dropout: int, *, seed: int = 0, engine: Engine = "auto") -> MemberOutputs:
        """Monte Carlo dropout (Gal and Ghahramani, 2016): n_dropout thinned heads for each member.

        The convolutions run once. The same thinned heads, which the seed decides, read every structure, so that the
        result does not depend on the batch. Normalisation stays as in evaluation. The members must have been trained
        with dropout.
        """
        return self.sample_read(self.pooled(graph, engine), n_dropout, seed=seed)

    def sample_read(self, embeddings: list[Tensor], n_dropout: int, *, seed: int = 0) -> MemberOutputs:
        """As :meth:`sample`, from the crystal embeddings of each member."""
        self.check_dropout(n_dropout)
        generator = torch.Generator().manual_seed(seed)
        outputs = []
        for network, pooled in zip(self.networks, embeddings, strict=True):
            keep = torch.bernoulli(
                torch.full((n_dropout, network.architecture.n_crystal), 1.0 - self.dropout), generator=generator
            )
            masks = (keep / (1.0 - self.dropout)).to(pooled)
            outputs += [out for mask in masks for out in network.read_heads(pooled, mask)]
        return self._member_outputs(outputs, embeddings[0])

    def calibrated(
        self,
        outputs: MemberOutputs,
        composition: Floats32,
        *,
        site_numbers: Ints | None = None,
        geometry: StructureGeometry | None = None,
        population: Population = "known",
        dropout: bool = False,
    ) -> CalibratedPrediction:
        """Predict from the outputs of the members, in what the network learned, as calibrated as the model is.

        The composition are (B, 101) atomic fractions of the structures, of sites those of their hosts, with (B,) atomic
        numbers on the sites; ``geometry`` are their contacts and volumes, ``population`` is what they are likely to be
        (see :class:`~cgcnn_ase.uncertainty.conformal.PopulationFactors`), ``dropout`` says whether the outputs are
        samples of Monte Carlo dropout.
        """
        calibration = self.dropout_calibration if dropout else self.calibration
        if calibration is None:
            return CALIBRATIONS[self.target.task].uncalibrated(outputs)
        prediction = calibration.apply(outputs, composition, site_numbers, geometry, population)
        if self.target.task == "classification":
            return prediction
        value, members, lower, upper = (
            None if each is None else np.asarray(self.target.clamp(torch.from_numpy(each)))
            for each in (prediction.value, prediction.members, prediction.lower, prediction.upper)
        )
        assert value is not None
        assert members is not None
        return prediction._replace(value=value, members=members, lower=lower, upper=upper)

    def _member_outputs(self, outputs: Sequence[Output], embedding: Tensor) -> MemberOutputs:
        parts = [output.of(self.outputs) for output in outputs]
        if self.target.task == "classification":
            logits = torch.stack([part.value for part in parts])
            return MemberOutputs(logits.softmax(dim=2)[:, :, 1], None, embedding, logits)
        values = self.target.from_network(torch.stack([part.value[:, 0] for part in parts]), self.scaler)
        scales = [part.scale[:, 0] for part in parts if part.scale is not None]
        # the standard deviation of a Laplace distribution is sqrt(2) times its scale
        stds = torch.stack(scales) * (2.0**0.5 * self.scaler.std) if len(scales) == len(parts) else None
        return MemberOutputs(values, stds, embedding)
