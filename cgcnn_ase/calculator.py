"""CGCNNCalculator: a model's prediction, with its uncertainty, as an ASE calculator."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    all_properties,
    compare_atoms,
    register_calculator_class,
)

from cgcnn_ase.energies.energy_model import (
    PER_ATOM_ENERGIES,
    GraphEnergy,
    MissingReferenceError,
    check_reference,
    reference_table,
    sum_of_references,
)
from cgcnn_ase.energies.interface import Reference
from cgcnn_ase.inspection.second_opinion import as_second_opinions
from cgcnn_ase.models.registry import DEFAULT_MODEL
from cgcnn_ase.potential.potential import Potential
from cgcnn_ase.potential.steps import ForceGuard, OnExcess, PotentialSteps
from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.prediction.results import Prediction
from cgcnn_ase.structures import StructureRecord, check_atoms

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.inspection.opinion_sources import OpinionSource
    from cgcnn_ase.inspection.second_opinion import SecondOpinions
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.uncertainty.protocol import Population


_DERIVATIVES = ("forces", "stress", "stresses", "energies")
_NO_ATOMS = "no structure has been calculated: give the atoms, or ask atoms.get_potential_energy() first"


class _Calculation(NamedTuple):
    """A structure and its results; ``atoms`` is None where nothing has been calculated."""

    atoms: "Atoms | None"
    results: dict[str, Any]


class _ThreadState(threading.local):
    """The last calculation of each thread; None in a thread that has not touched the calculator."""

    last: _Calculation | None = None


class CGCNNCalculator(Calculator):
    """Energies and their uncertainty from a crystal-graph model.

    Parameters
    ----------
    model : str, path or CrystalModel
        A pretrained name, a model folder, an original CGCNN ``.pth.tar``, or a loaded model.
    reference : {"mp-pbe", "none"} or dict
        What turns a formation energy into ``energy``: the total energy of the cell in eV is ``N * formation energy per
        atom + sum of the elements' reference energies``. ``mp-pbe`` takes those of the Materials Project; a dict gives
        them by symbol in eV/atom; with ``none``, energy is ``N * formation energy per atom``.
    n_dropout, seed, population
        Monte Carlo dropout, and whose errors the interval is made for; see
        :class:`cgcnn_ase.prediction.predictor.Predictor`.
    second_opinion : sequence of str or ASE calculator, or SecondOpinions
        Other models; how far they disagree is the result ``second_opinion_std``, in the unit of the model's property.
        See :class:`cgcnn_ase.inspection.second_opinion.SecondOpinions`, whose ``fit`` brings them to one scale.
    max_force_std : float, optional
        Of a potential: where the std of a force is larger (eV/Å), the structure has left what the potential knows.
    on_excess : {"raise", "warn"}
        What happens then: an ``UncertainForcesError`` ends the run, or an ``UncertainForcesWarning`` is given.

    Notes
    -----
    ``results`` holds, for a model of the formation energy: ``energy``, ``free_energy`` and ``energy_std`` (eV),
    ``formation_energy_per_atom``, its ``_std`` (eV/atom) and its ``_interval`` (lower and upper bound, 90 %),
    ``in_domain``, ``in_domain_reason`` and ``domain_score`` (1 at the limit of the domain). Other models give their own
    property instead of the energies. ``scale`` names the scale of the energies (see
    :mod:`cgcnn_ase.energies.scales`): those of two scales are never added. Keys that a model has no calibration for are
    missing from ``implemented_properties``. Charges and magnetic moments do not enter.

    A potential (``calc.model.is_potential``, such as ``cathode-potential``) gives ``energies``, ``forces``,
    ``forces_std`` (one number an atom, eV/Å) and, of crystals, ``stress``, too. Its ``energy`` is a total energy on the
    scale of uncorrected PBE(+U), whatever the ``reference``.

    Threads may share a calculator: ``atoms`` and ``results`` are those of the last calculation in the thread that reads
    them (of any thread, where it has made none), so that no thread is given the numbers of another's structure.

    Examples
    --------
    >>> atoms.calc = CGCNNCalculator()  # doctest: +SKIP
    >>> atoms.get_potential_energy(), atoms.calc.get_energy_uncertainty()  # doctest: +SKIP
    """

    name = "cgcnn"
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 - as in ASE

    def __init__(
        self,
        model: "str | Path | CrystalModel" = DEFAULT_MODEL,
        *,
        reference: Reference | Mapping[str, float] = "mp-pbe",
        n_dropout: int | None = None,
        seed: int = 0,
        population: "Population" = "known",
        second_opinion: "SecondOpinions | OpinionSource | Iterable[OpinionSource] | None" = None,
        max_force_std: float | None = None,
        on_excess: OnExcess = "raise",
    ) -> None:
        check_reference(reference)
        self._infer = Predictor(model, n_dropout=n_dropout, seed=seed, population=population).inference()
        self.model: CrystalModel = self._infer.models[0]
        self.model.check_level("crystal", "a calculator")
        self._potential = PotentialSteps(Potential(self.model), population) if self.model.is_potential else None
        self._guard = ForceGuard(max_force_std, on_excess)
        self._guard.check(self.model)
        self._second_opinion = as_second_opinions(second_opinion)
        if self._second_opinion is not None:
            self._second_opinion.check([self.model.target.name], alone=self.model.sha256)
        self.implemented_properties = self._properties()
        self.reset()
        super().__init__()  # type: ignore[no-untyped-call]
        self.reset()  # ASE has set empty results for this thread
        self.parameters.update(
            model=self.model.name,
            model_sha256=self.model.sha256,
            reference=reference,
            n_dropout=n_dropout,
            seed=seed,
            population=population,
        )
        if self._second_opinion is not None:
            self.parameters.update(second_opinion=self._second_opinion.names)
        if max_force_std is not None:
            self.parameters.update(max_force_std=max_force_std, on_excess=on_excess)

    @property
    def atoms(self) -> "Atoms | None":
        """Copy of the structure that was calculated last, in this thread."""
        return self._last().atoms

    @atoms.setter
    def atoms(self, atoms: "Atoms | None") -> None:
        self._thread.last = self._last()._replace(atoms=atoms)

    @property
    def results(self) -> dict[str, Any]:
        """Results of the last calculation, in this thread."""
        return self._last().results

    @results.setter
    def results(self, results: dict[str, Any]) -> None:
        self._thread.last = self._last()._replace(results=results)

    def _last(self) -> _Calculation:
        """Last calculation of this thread, or of any where this one has made none."""
        if self._thread.last is None:
            self._thread.last = self._newest
        return self._thread.last or _Calculation(None, {})

    def reset(self) -> None:
        """Forget the calculations of all threads."""
        self._thread = _ThreadState()
        self._newest: _Calculation | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all, with the results that this thread sees."""
        return self.__dict__ | {"_thread": None, "_newest": self._last()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_thread": _ThreadState()}

    def check_state(self, atoms: "Atoms", tol: float = 1e-15) -> list[str]:
        """Names of what has changed since the last calculation in this thread, or the newest in any."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]
        newest = self._newest
        if changes and newest is not None and newest is not self._thread.last:
            ignored = set(self.ignored_changes)
            if not compare_atoms(newest.atoms, atoms, tol, excluded_properties=ignored):
                self._thread.last = newest
                return []
        return changes

    @property
    def reference(self) -> Reference | Mapping[str, float]:
        """Reference energies that turn a formation energy into an energy."""
        reference: Reference | Mapping[str, float] = self.parameters["reference"]
        return reference

    def energy_model(self, references: Reference | Mapping[str, float] | None = None) -> GraphEnergy:
        """Return the energies of each member, as :func:`cgcnn_ase.energies.energy_model.as_energy_model` asks for."""
        return GraphEnergy(self._infer, references or self.reference)

    def set(self, **changes: Any) -> dict[str, Any]:
        """Change ``reference``, and forget the results; the other settings are those of the loaded model.

        Raises
        ------
        ValueError
            If it is another setting, or a reference that does not exist.
        """
        if others := set(changes) - {"reference"}:
            raise ValueError(f"cannot set {', '.join(sorted(others))}: make a new CGCNNCalculator for another model")
        if "reference" in changes:
            check_reference(changes["reference"])
        changed: dict[str, Any] = super().set(**changes)  # type: ignore[no-untyped-call]
        if changed:
            self.reset()
        return changed

    def _properties(self) -> list[str]:
        name = self.model.target.name
        calibrated = self._infer.calibration(self.model) is not None
        has_std = calibrated or self.model.n_members > 1 or self._infer.n_dropout is not None
        energies = ["energy", "free_energy"] if name in PER_ATOM_ENERGIES else []
        stds = [*(["energy_std"] if energies else []), f"{name}_std"] if has_std else []
        domain = [f"{name}_interval", "in_domain", "in_domain_reason", "domain_score"] if calibrated else []
        opinions = [] if self._second_opinion is None else ["second_opinion_std"]
        derivatives = [] if self._potential is None else ["energies", "forces", "forces_std", "stress"]
        scale = ["scale"] if energies and self.model.scale is not None else []
        return [*energies, *derivatives, name, *stds, *domain, *opinions, *scale]

    def calculate(
        self,
        atoms: "Atoms | None" = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Predict; called by ASE.

        Raises
        ------
        StructureError
            If the structure cannot be used (overlapping atoms, no volume, ...).
        MissingReferenceError
            If an energy is asked for and an element has no reference energy.
        """
        del system_changes
        if atoms is not None:
            self.atoms = atoms.copy()
        if self.atoms is None:
            raise ValueError(_NO_ATOMS)
        derivatives: dict[str, object] = {}
        checked = check_atoms(self.atoms, "<atoms>")
        if self._potential is not None:
            prediction, derivatives = self._potential(checked)
            self._guard(checked, derivatives["forces_std"])
        else:
            prediction = self._infer([StructureRecord("atoms", "<atoms>", checked, None)])[0]
        if prediction.error is not None:
            raise ValueError(prediction.error)
        if self._second_opinion is not None:
            ((prediction,),) = self._second_opinion([self.atoms], [[prediction]], note_scale=False)
        name = self.model.target.name
        result: dict[str, object] = {
            name: prediction.value,
            f"{name}_std": prediction.std,
            f"{name}_interval": None if prediction.lower is None else np.array([prediction.lower, prediction.upper]),
            "in_domain": prediction.in_domain,
            "in_domain_reason": prediction.in_domain_reason,
            "domain_score": prediction.domain_score,
            "scale": prediction.scale,
        }
        if prediction.second_opinion_std is not None:
            result["second_opinion_std"] = prediction.second_opinion_std
        result |= derivatives
        if name in PER_ATOM_ENERGIES:
            result |= self._energies(prediction, required=bool({"energy", "free_energy"} & set(properties)))
        self.results = {key: result[key] for key in self.implemented_properties if key in result}
        self._newest = self._last()

    def _energies(self, prediction: Prediction, *, required: bool) -> dict[str, float]:
        assert self.atoms is not None
        assert prediction.value is not None
        n = len(self.atoms)
        result = {} if prediction.std is None else {"energy_std": n * prediction.std}
        try:
            energy = n * prediction.value + self._reference_energy()
        except MissingReferenceError:
            if required:
                raise
            return result
        return {"energy": energy, "free_energy": energy, **result}

    def _reference_energy(self) -> float:
        """Sum of the elements' reference energies, eV."""
        assert self.atoms is not None
        table = reference_table(self.model, self.reference)
        return 0.0 if table is None else sum_of_references(self.atoms.get_chemical_symbols(), table)

    def get_property(self, name: str, atoms: "Atoms | None" = None, allow_calculation: bool = True) -> Any:
        """A result by name; calculated if the atoms have changed.

        Raises
        ------
        PropertyNotImplementedError
            With the reason, for forces and stress of a model that is not a smooth function of the positions.
        """
        if name in _DERIVATIVES and name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"no {name}: the model {self.model.name!r} reads a graph of the nearest neighbours (rule "
                f"{self.model.graph.rule!r}), whose energy jumps when neighbours change places, so it has no forces. "
                "Relaxation and molecular dynamics need a potential: a model with model.is_potential, such as "
                "cathode-potential, or another interatomic potential such as CHGNet"
            )
        if atoms is None and self.atoms is None and allow_calculation and name in self.implemented_properties:
            raise ValueError(_NO_ATOMS)
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]

    def get_energy_uncertainty(self, atoms: "Atoms | None" = None, *, per_atom: bool = False) -> float:
        """One calibrated standard deviation of the energy, eV (eV/atom with ``per_atom``).

        Parameters
        ----------
        atoms
            The structure; by default the one that was calculated last, as everywhere in ASE.

        Raises
        ------
        PropertyNotImplementedError
            If the model has no uncertainty or does not predict an energy.
        """
        if "energy_std" not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"the model {self.model.name!r} gives no uncertainty of an energy: it predicts "
                f"{self.model.target.name}, with {self.model.n_members} member(s) and "
                f"{'a' if self.model.calibration else 'no'} calibration"
            )
        std: float = self.get_property("energy_std", atoms)
        assert self.atoms is not None
        return std / len(self.atoms) if per_atom else std

    def annotate(self, atoms: "Atoms") -> "Atoms":
        """Put what ASE's writers would drop into ``atoms.info``: std, interval, in_domain, scale, model and sha256.

        Of a potential, ``forces_std`` goes into ``atoms.arrays``, and its largest value is ``max_force_std``.
        """
        self.get_property(self.model.target.name, atoms)
        for key in self.implemented_properties:
            if key not in all_properties and key != "forces_std" and self.results.get(key) is not None:
                atoms.info[key] = self.results[key]
        if (forces_std := self.results.get("forces_std")) is not None:
            atoms.set_array("forces_std", forces_std)
            atoms.info["max_force_std"] = float(forces_std.max())
        if not atoms.info.get("in_domain_reason", True):
            del atoms.info["in_domain_reason"]  # an empty one would not survive extxyz
        atoms.info |= {"cgcnn_model": self.model.name, "cgcnn_model_sha256": self.model.sha256}
        return atoms


register_calculator_class("cgcnn", CGCNNCalculator)
