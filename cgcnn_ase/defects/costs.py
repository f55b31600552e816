"""What each defect of a host costs, by either estimate: off the host's own sites, or from two supercells."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cgcnn_ase.defects.host import check_host
from cgcnn_ase.defects.manifest import Manifest
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.supercell import make_supercell
from cgcnn_ase.defects.supercell_energy import DefectEnergy, defect_formation_energies

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.energies.ensemble_energy import EnergyModel
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.predictor import Predictor
    from cgcnn_ase.prediction.results import Prediction

    Model = str | Path | CrystalModel | BaseCalculator | EnergyModel


@dataclass(frozen=True, kw_only=True)
class DefectEnergyEstimate:
    """One defect and what it costs.

    Attributes
    ----------
    energy
        Formation energy of the neutral, unrelaxed defect, eV; of a model of sites, of the relaxed one it learned.
    std
        One standard deviation, eV; None where nothing is known of the error.
    lower, upper
        90 % interval, eV, where the model has one.
    in_domain, reason
        Whether the model knows such structures, and why not; None where it cannot tell.
    """

    id: str
    host: str
    kind: str
    defect: str
    site_index: int | None
    multiplicity: int
    energy: float
    std: float | None
    lower: float | None
    upper: float | None
    in_domain: bool | None
    reason: str
    formula: str
    n_atoms: int
    model: str

    def to_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


class CostEstimate(Protocol):
    """Anything that says what the defects of one host cost."""

    def __call__(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[DefectEnergyEstimate]:
        """One cost a defect, in their order."""


class SiteModelEstimator:
    """Vacancy energies read off the pristine host by a model of sites: no supercell is predicted."""

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor

    def __call__(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[DefectEnergyEstimate]:
        """One cost a defect, all of them vacancies.

        Raises
        ------
        ValueError
            If one is no vacancy, or the host cannot be predicted.
        """
        for _, manifest in defects:
            if manifest.kind != "vacancy":
                raise ValueError(
                    f"{manifest.id}: a model of sites knows vacancies, not the kind {manifest.kind!r}; take a model of "
                    "energies such as formation-energy-per-atom"
                )
        result = self._predictor([host])
        if result.failures:
            raise ValueError(f"{name}: {result.failures[0].error}")
        by_site = {p.site_index: p for p in result.all}
        return [_of_site(manifest, by_site[manifest.site_index]) for _, manifest in defects]


class SupercellEstimator:
    """Defective supercell less pristine one, with the chemical potentials of what was exchanged."""

    def __init__(self, model: "Model", chemical_potentials: Mapping[str, float] | None = None) -> None:
        from cgcnn_ase.energies.energy_model import as_energy_model

        self._model, self._potentials = as_energy_model(model), chemical_potentials

    def __call__(self, name: str, host: "Atoms", defects: Sequence[Defect]) -> list[DefectEnergyEstimate]:
        """One cost a defect; all of them in the same supercell."""
        if not defects:
            return []
        matrices = {manifest.supercell for _, manifest in defects}
        if len(matrices) > 1:
            raise ValueError(f"{name}: the defects are in different supercells")
        rows = list(matrices.pop())
        pristine = make_supercell(check_host(host, name), [rows[0:3], rows[3:6], rows[6:9]]).atoms
        energies = defect_formation_energies(
            [atoms for atoms, _ in defects], pristine, self._model, chemical_potentials=self._potentials
        )
        return [_of_difference(manifest, result) for (_, manifest), result in zip(defects, energies, strict=True)]


def cost_estimate(
    model: "Model" = "vacancy-formation-energy",
    *,
    fidelity: str | None = None,
    chemical_potentials: Mapping[str, float] | None = None,
) -> CostEstimate:
    """The estimate that a model allows: a model of sites reads the host, any model of energies compares supercells.

    Parameters
    ----------
    model
        A pretrained name, model folder or loaded model; or ``chgnet`` or an ASE calculator (no uncertainty then).
    fidelity
        Of a model of sites, whose calculations to predict; see :data:`cgcnn_ase.models.registry.FIDELITIES`.
    chemical_potentials
        Of the exchanged elements, eV/atom; by default the elements' own energies. Only for models of energies.

    Raises
    ------
    ValueError
        If chemical potentials are given to a model of sites, whose references are those of its training set.
    """
    from cgcnn_ase.energies.energy_model import CHGNET
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.models.registry import with_fidelity
    from cgcnn_ase.prediction.predictor import Predictor

    if isinstance(model, str | Path | CrystalModel) and model != CHGNET:
        known = model if isinstance(model, CrystalModel) else with_fidelity(str(model), fidelity)
        predictor = Predictor(known)
        if predictor.of_sites:
            if chemical_potentials:
                raise ValueError(
                    "chemical potentials are of models of energies; those of a model of sites are what it learned with"
                )
            return SiteModelEstimator(predictor)
        return SupercellEstimator(known, chemical_potentials)
    return SupercellEstimator(model, chemical_potentials)


def _of_site(manifest: Manifest, prediction: "Prediction") -> DefectEnergyEstimate:
    assert prediction.value is not None
    return DefectEnergyEstimate(
        **_defect(manifest),
        energy=prediction.value,
        std=prediction.std,
        lower=prediction.lower,
        upper=prediction.upper,
        in_domain=prediction.in_domain,
        reason=prediction.reason,
        model=prediction.model,
    )


def _of_difference(manifest: Manifest, result: DefectEnergy) -> DefectEnergyEstimate:
    return DefectEnergyEstimate(
        **_defect(manifest),
        energy=result.energy,
        std=result.std,
        lower=None,
        upper=None,
        in_domain=result.in_domain,
        reason="" if result.in_domain is not False else "the supercell is unlike the training structures",
        model=result.model,
    )


def _defect(manifest: Manifest) -> dict[str, Any]:
    """What a row takes over from the manifest."""
    names = ("id", "host", "kind", "defect", "site_index", "multiplicity", "formula", "n_atoms")
    return {name: getattr(manifest, name) for name in names}
