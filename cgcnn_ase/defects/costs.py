"""Formation energy of each defect of a host, by either estimate: off the host's own sites, or from two supercells."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cgcnn_ase.defects.dft_folder import pristine_supercell
from cgcnn_ase.defects.plan import Defect, Manifest
from cgcnn_ase.defects.supercell_energy import (
    ChosenPotentials,
    DefectEnergy,
    as_list,
    defect_formation_energies,
    exchanged_atoms,
    opinion_models,
    second_opinion_std,
)
from cgcnn_ase.energies.energy_model import POTENTIALS, EnergySource, GraphEnergy, as_energy_model
from cgcnn_ase.energies.relaxation import check_forces
from cgcnn_ase.energies.scales import element_energies
from cgcnn_ase.stability.chemical_potentials import ELEMENTS
from cgcnn_ase.stability.phases import CompetingPhases
from cgcnn_ase.structures import read_structures

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.core.targets import TargetSpec
    from cgcnn_ase.energies.interface import EnergyModel
    from cgcnn_ase.prediction.predictor import Predictor
    from cgcnn_ase.prediction.results import MemberPrediction
    from cgcnn_ase.uncertainty.protocol import Population


# elements whose vacancies a difference of two total energies ranks, if it does not measure them
_ANIONS = ("N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I")
# labels of sites that are differences of unrelaxed supercells, against the elements on this scale
_UNRELAXED, _UNRELAXED_ON = "other:chgnet", "mp2020"


@dataclass(frozen=True, kw_only=True)
class DefectEnergyEstimate:
    """One defect and its formation energy."""

    id: str
    host: str
    kind: str
    defect: str
    site_index: int | None
    multiplicity: int
    # formation energy of the neutral defect, eV, unrelaxed unless a relaxation was asked for; of a model of sites, of
    # the relaxed one it learned
    energy: float
    std: float | None  # one standard deviation, eV; None where nothing is known of the error
    # lower, upper: 90 % interval, eV, where the model has one
    lower: float | None
    upper: float | None
    # in_domain, reason: whether the model knows such structures, and why not; None where it cannot tell. The reason
    # also says why a relaxation did not end, and which second opinion is missing
    in_domain: bool | None
    reason: str
    converged: bool | None = None  # whether both supercells are relaxed; None where nothing was relaxed
    formula: str
    n_atoms: int
    model: str
    members: tuple[float, ...] | None = None  # energy by each member of the ensemble, eV; None without one
    # scale of the energy (:mod:`cgcnn_ase.energies.scales`), None where it is not known, and what was added to bring
    # the model's energies to it, eV
    scale: str | None = None
    correction: float = 0.0
    # the chemical potentials of the exchanged elements, eV/atom as ``Li=-1.909``, the limit that they are
    # (``elements``, ``given`` or, as ``Li-rich``, one of the hull's), and the phases that set it; empty of a model of
    # sites
    chemical_potentials: str = ""
    limit: str = ""
    limit_phases: str = ""
    # standard deviation of the energies by all models, this one and the second opinions, eV; None where there are none
    second_opinion_std: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Field names and values, without those of the members."""
        return {name: value for name, value in asdict(self).items() if name != "members"}


@dataclass(frozen=True)
class Relaxation:
    """How supercells are relaxed before their energies are compared: the atoms move, the cell is the pristine one's."""

    fmax: float = 0.05  # largest force that may remain, eV/Å
    max_steps: int = 500


class CostEstimate(Protocol):
    """Anything that gives the formation energies of the defects of one host."""

    def __call__(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[DefectEnergyEstimate]:
        """One cost a defect, in their order."""


class SiteModelEstimator:
    """Vacancy energies read off the pristine host by a model of sites: no supercell is predicted.

    A ``second_opinion`` is by models of sites with the same labels; or, where these labels are differences of unrelaxed
    supercells, by models of energies, which compare the supercells.
    """

    def __init__(self, predictor: "Predictor", *, second_opinion: "EnergySource | Iterable[EnergySource]" = ()) -> None:
        self._predictor = predictor
        self._by_sites: list[SiteModelEstimator] = []
        self._by_energies: list[EnergyModel] = []
        for source in as_list(second_opinion):
            self._add_opinion(source)

    def _add_opinion(self, source: EnergySource) -> None:
        """Load another model; a ValueError says why its energies are another quantity."""
        model = self._predictor.inference().models[0]
        if (other := _predictor_of(source)) is not None and other.of_sites:
            theirs = other.inference().models[0]
            if (theirs.target, theirs.scale) != (model.target, model.scale):
                raise ValueError(
                    f"no second opinion on {model.name} by {theirs.name}: it learned other calculations, "
                    f"{theirs.target.name} ({theirs.scale}), not {model.target.name} ({model.scale})"
                )
            self._by_sites.append(SiteModelEstimator(other))
            return
        (of_energies,) = opinion_models(source)
        if model.scale != _UNRELAXED:
            raise ValueError(
                f"no second opinion on {model.name} by {of_energies.name}: a difference of supercells is not what this "
                f"model of sites learned ({model.scale}): the energy of a relaxed vacancy, with chemical potentials of "
                "its own; take a model of energies to screen with, --fidelity chgnet, or a model of the same labels"
            )
        self._by_energies.append(of_energies)

    def __call__(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[DefectEnergyEstimate]:
        """One cost a defect; one that is no vacancy, or a host that cannot be predicted, is a `ValueError`."""
        for _, manifest in defects:
            if manifest.kind != "vacancy":
                raise ValueError(
                    f"{manifest.id}: a model of sites knows vacancies, not the kind {manifest.kind!r}; take a model of "
                    "energies such as formation-energy-per-atom"
                )
        inference = self._predictor.inference()
        (row,) = inference.with_members(list(read_structures([host])))
        failed = [prediction.error for prediction, _ in row if prediction.error is not None]
        if failed:
            raise ValueError(f"{name}: {failed[0]}")
        target = inference.models[0].target
        by_site = {one.prediction.site_index: one for one in row}
        costs = [_of_site(manifest, by_site[manifest.site_index], target) for _, manifest in defects]
        if not defects or not (self._by_sites or self._by_energies):
            return costs
        opinions = self._opinions(name, host, defects)
        return [_with_opinions(cost, [(who, column[k]) for who, column in opinions]) for k, cost in enumerate(costs)]

    def _opinions(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[tuple[str, list[float | str]]]:
        """Name and energies of each other model, eV, or why there is none."""
        result: list[tuple[str, list[float | str]]] = []
        for other in self._by_sites:
            who = other._predictor.inference().models[0].name
            try:
                result.append((who, [cost.energy for cost in other(name, host, defects)]))
            except ValueError as error:
                result.append((who, [str(error)] * len(defects)))
        if self._by_energies:
            cells = [pristine_supercell(host, defects[0].manifest), *(atoms for atoms, _ in defects)]
            exchanged = [exchanged_atoms(cell, cells[0]) for cell in cells[1:]]
            elements = element_energies(_UNRELAXED_ON)
            model = self._predictor.inference().models[0].name
            potentials = ChosenPotentials(
                cells[0], elements, model, _UNRELAXED_ON, _UNRELAXED_ON, ELEMENTS, elements=elements
            )
            for each in self._by_energies:
                column = potentials.of_another(each, exchanged).energies_by(each, cells, exchanged)
                result.append((each.name, column))
        return result


class SupercellEstimator:
    """Defective supercell less pristine one, with the chemical potentials of what was exchanged.

    With a ``relaxation`` both are relaxed first; a ValueError if the model has no forces. A ``second_opinion`` is that
    of other models of energies on the same cells.
    """

    def __init__(
        self,
        model: EnergySource,
        chemical_potentials: Mapping[str, float] | None = None,
        *,
        limit: str = ELEMENTS,
        phases: CompetingPhases | None = None,
        population: "Population" = "hypothetical",
        relaxation: Relaxation | None = None,
        second_opinion: "EnergySource | Iterable[EnergySource]" = (),
    ) -> None:
        self._model, self._potentials = as_energy_model(model, population=population), chemical_potentials
        self._limit, self._phases = limit, phases
        # a network learned the energies of perfect crystals; a potential has seen atoms that are out of place
        self._is_network = isinstance(self._model, GraphEnergy) and not self._model.model.is_potential
        self._relaxation, self._opinions = relaxation, opinion_models(second_opinion)
        if relaxation is not None:
            check_forces(self._model)

    def __call__(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[DefectEnergyEstimate]:
        """One cost a defect; all of them in the same supercell."""
        if not defects:
            return []
        matrices = {manifest.supercell for _, manifest in defects}
        if len(matrices) > 1:
            raise ValueError(f"{name}: the defects are in different supercells")
        pristine = pristine_supercell(host, defects[0].manifest)
        how = self._relaxation or Relaxation()
        energies = defect_formation_energies(
            [atoms for atoms, _ in defects], pristine, self._model, chemical_potentials=self._potentials,
            limit=self._limit, phases=self._phases, relax=self._relaxation is not None, fmax=how.fmax,
            max_steps=how.max_steps, on_unconverged="note", second_opinion=self._opinions,
        )  # fmt: skip
        return [
            _of_difference(manifest, energy, self._objection(manifest))
            for (_, manifest), energy in zip(defects, energies, strict=True)
        ]

    def _objection(self, manifest: Manifest) -> str:
        """Say why the difference is not to be trusted, whatever its std; empty where it can be."""
        if not self._is_network or (manifest.kind == "vacancy" and set(manifest.removed) <= set(_ANIONS)):
            return ""
        what = f"{manifest.removed[0]} vacancies" if manifest.kind == "vacancy" else f"the kind {manifest.kind}"
        return (
            f"the difference of two total energies by a network is wrong by eV for {what}, with too small a std; "
            "take --model chgnet, or DFT"
        )


def cost_estimate(
    model: EnergySource = "vacancy-formation-energy",
    *,
    fidelity: str | None = None,
    chemical_potentials: Mapping[str, float] | None = None,
    limit: str = ELEMENTS,
    phases: CompetingPhases | None = None,
    population: "Population" = "hypothetical",
    relaxation: Relaxation | None = None,
    second_opinion: "EnergySource | Iterable[EnergySource]" = (),
) -> CostEstimate:
    """Choose the estimate that a model allows: a model of sites reads the host, any model of energies compares
    supercells.

    Parameters
    ----------
    model
        A pretrained name, model folder or loaded model; or ``chgnet``, ``sevenn`` or an ASE calculator (no uncertainty
        then).
    fidelity
        Of a model of sites, whose calculations to predict; see :data:`cgcnn_ase.models.registry.FIDELITIES`.
    chemical_potentials
        Of the exchanged elements, eV/atom, on the scale of the model; by default the elements' own energies. A model of
        sites has its own.
    limit, phases
        Chemical potentials of the hull of competing phases instead, such as those of ``Li-rich``: see
        :func:`cgcnn_ase.defects.supercell_energy.defect_formation_energy`.
    population
        Whose errors stds and intervals are made for, where the model was calibrated for both; defects are generated.
    relaxation
        Relax the supercells with the model's forces before they are compared; by default they stay as they are.
    second_opinion
        Other models, given as ``model`` is: how far their energies of the same defects spread is
        ``second_opinion_std``. See :func:`cgcnn_ase.defects.supercell_energy.defect_formation_energy`, and of a model
        of sites :class:`SiteModelEstimator`.

    Raises
    ------
    ValueError
        If the model does not suit what is asked for.
    """
    predictor = _predictor_of(model, fidelity=fidelity, population=population)
    if predictor is not None:
        if predictor.of_sites:
            if chemical_potentials or limit != ELEMENTS:
                raise ValueError(
                    "chemical potentials are of models of energies; those of a model of sites are what it learned with"
                )
            if relaxation is not None:
                raise ValueError(
                    "relaxation is of supercells, and a model of sites reads the pristine host alone: take a potential "
                    "such as cathode-potential or chgnet, or go without relaxation"
                )
            return SiteModelEstimator(predictor, second_opinion=second_opinion)
        model = GraphEnergy(predictor.inference())
    return SupercellEstimator(
        model, chemical_potentials, limit=limit, phases=phases, relaxation=relaxation, second_opinion=second_opinion
    )


def _predictor_of(
    model: EnergySource, *, fidelity: str | None = None, population: "Population" = "hypothetical"
) -> "Predictor | None":
    """Load a model of this package; None of potentials, calculators and other sources of energies."""
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.models.registry import with_fidelity
    from cgcnn_ase.prediction.predictor import Predictor

    if not isinstance(model, str | Path | CrystalModel) or model in POTENTIALS:
        return None
    known = model if isinstance(model, CrystalModel) else with_fidelity(str(model), fidelity)
    return Predictor(known, population=population)


def _with_opinions(cost: DefectEnergyEstimate, others: Sequence[tuple[str, float | str]]) -> DefectEnergyEstimate:
    std, missing = second_opinion_std(cost.energy, others)
    return replace(cost, second_opinion_std=std, reason="; ".join(filter(None, (cost.reason, missing))))


def _of_site(manifest: Manifest, of_site: "MemberPrediction", target: "TargetSpec") -> DefectEnergyEstimate:
    prediction, members = of_site
    assert prediction.value is not None
    assert members is not None
    return _estimated(
        manifest, prediction.value, prediction.std, prediction.in_domain, prediction.reason, prediction.model,
        (prediction.lower, prediction.upper), target.to_physical(members.astype(np.float64)).tolist(),
        scale=prediction.scale,
    )  # fmt: skip


def _of_difference(manifest: Manifest, difference: DefectEnergy, objection: str) -> DefectEnergyEstimate:
    unlike = "the supercell is unlike the training structures" if difference.in_domain is False else ""
    return _estimated(
        manifest, difference.energy, difference.std, False if objection else difference.in_domain,
        "; ".join(filter(None, (objection, unlike, difference.note))), difference.model, (None, None),
        difference.members, difference.converged, scale=difference.scale, correction=difference.correction,
        chemical_potentials=" ".join(f"{name}={mu:.4f}" for name, mu in difference.chemical_potentials.items()),
        limit=difference.limit, limit_phases=" + ".join(difference.limit_phases),
        second_opinion_std=difference.second_opinion_std,
    )  # fmt: skip


def _estimated(
    manifest: Manifest,
    energy: float,
    std: float | None,
    in_domain: bool | None,
    reason: str,
    model: str,
    interval: tuple[float | None, float | None],
    members: Sequence[float] | None,
    converged: bool | None = None,
    **of_scale: Any,
) -> DefectEnergyEstimate:
    """Put an energy beside the defect's row of the manifest."""
    return DefectEnergyEstimate(
        id=manifest.id, host=manifest.host, kind=manifest.kind, defect=manifest.defect, site_index=manifest.site_index,
        multiplicity=manifest.multiplicity, formula=manifest.formula, n_atoms=manifest.n_atoms, energy=energy, std=std,
        lower=interval[0], upper=interval[1], in_domain=in_domain, reason=reason, converged=converged, model=model,
        members=None if members is None or len(members) < 2 else tuple(members), **of_scale,
    )  # fmt: skip
