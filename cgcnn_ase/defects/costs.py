"""Formation energy of each defect of a host, by either estimate: off the host's own sites, or from two supercells."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cgcnn_ase.defects.dft_folder import pristine_supercell
from cgcnn_ase.defects.manifest import Manifest
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.supercell_energy import DefectEnergy, defect_formation_energies
from cgcnn_ase.energies.energy_model import CHGNET, EnergySource, as_energy_model
from cgcnn_ase.energies.graph_model import GraphEnergy
from cgcnn_ase.energies.relaxation import check_forces
from cgcnn_ase.stability.chemical_potentials import ELEMENTS
from cgcnn_ase.stability.phases import CompetingPhases
from cgcnn_ase.structures import read_structures

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.core.targets import TargetSpec
    from cgcnn_ase.prediction.predictor import Predictor
    from cgcnn_ase.prediction.results import MemberPrediction
    from cgcnn_ase.uncertainty.protocol import Population


# elements whose vacancies a difference of two total energies ranks, if it does not measure them
_ANIONS = ("N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I")


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
    # also says why a relaxation did not end
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
    """Vacancy energies read off the pristine host by a model of sites: no supercell is predicted."""

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor

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
        return [_of_site(manifest, by_site[manifest.site_index], target) for _, manifest in defects]


class SupercellEstimator:
    """Defective supercell less pristine one, with the chemical potentials of what was exchanged.

    With a ``relaxation`` both are relaxed first; a ValueError if the model has no forces.
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
    ) -> None:
        self._model, self._potentials = as_energy_model(model, population=population), chemical_potentials
        self._limit, self._phases = limit, phases
        # a network learned the energies of perfect crystals; a potential has seen atoms that are out of place
        self._is_network = isinstance(self._model, GraphEnergy) and not self._model.model.is_potential
        self._relaxation = relaxation
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
            max_steps=how.max_steps, on_unconverged="note",
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
) -> CostEstimate:
    """Choose the estimate that a model allows: a model of sites reads the host, any model of energies compares
    supercells.

    Parameters
    ----------
    model
        A pretrained name, model folder or loaded model; or ``chgnet`` or an ASE calculator (no uncertainty then).
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

    Raises
    ------
    ValueError
        If the model does not suit what is asked for.
    """
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.models.registry import with_fidelity
    from cgcnn_ase.prediction.predictor import Predictor

    if isinstance(model, str | Path | CrystalModel) and model != CHGNET:
        known = model if isinstance(model, CrystalModel) else with_fidelity(str(model), fidelity)
        predictor = Predictor(known, population=population)
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
            return SiteModelEstimator(predictor)
        return SupercellEstimator(
            known, chemical_potentials, limit=limit, phases=phases, population=population, relaxation=relaxation
        )
    return SupercellEstimator(model, chemical_potentials, limit=limit, phases=phases, relaxation=relaxation)


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
