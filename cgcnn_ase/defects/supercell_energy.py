"""The formation energy of a neutral defect from two supercells, with the error of their difference."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cgcnn_ase.energies.energy_model import EnergySource, as_energy_model, energies_or_failures
from cgcnn_ase.energies.interface import EnergyModel
from cgcnn_ase.energies.relaxation import converged_atoms, relax_cells
from cgcnn_ase.energies.scales import SCALES, element_energies, reaction_correction, scale_of, with_elements
from cgcnn_ase.stability.chemical_potentials import ELEMENTS, chemical_potentials_at
from cgcnn_ase.stability.phases import CompetingPhases, known_phases, reduced
from cgcnn_ase.structures import as_atoms

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# the two cells may differ by this part of their lengths
_CELL = 1e-3
# energies as near as this are equal, eV
_SMALL = 1e-6


@dataclass(frozen=True)
class DefectEnergy:
    """Formation energy of a neutral defect."""

    energy: float  # eV, positive where the defect costs energy
    std: float | None  # one standard deviation of the *difference* of the two cells, eV; None without an ensemble
    members: tuple[float, ...] | None  # by each member of the ensemble, eV; None without one
    # what the std would be if the errors of the two cells had nothing in common, eV: for comparison, as most of it
    # cancels. None without calibration.
    std_if_independent: float | None
    removed: dict[str, int]  # how many atoms of each element left the pristine cell (negative: were added)
    chemical_potentials: dict[str, float]  # of those elements, eV/atom
    n_atoms: tuple[int, int]  # of the pristine and of the defective cell
    in_domain: bool | None  # whether the model knows structures like both cells; None where it cannot tell
    model: str  # what gave the energies
    was_relaxed: bool  # whether the atoms were moved to where the forces vanish
    converged: bool | None = None  # whether they vanish in both cells; None where nothing was relaxed
    # why the energy is not that of two relaxed cells, or the potentials not those asked for; empty where all is well
    note: str = ""
    # scale of the energy and the potentials (:mod:`cgcnn_ase.energies.scales`), and what was added to bring the
    # model's energies to it, eV
    scale: str | None = None
    correction: float = 0.0
    limit: str = "elements"  # what the potentials are those of
    limit_phases: tuple[str, ...] = ()  # that are in equilibrium with the host there
    # standard deviation of the energies by all models, this one and the second opinions, eV; None where there are none
    second_opinion_std: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Field names and values."""
        return asdict(self)


def defect_formation_energy(
    defective: "Atoms | Structure",
    pristine: "Atoms | Structure",
    model: EnergySource = "formation-energy-per-atom",
    *,
    chemical_potentials: Mapping[str, float] | None = None,
    limit: str = "elements",
    phases: "CompetingPhases | None" = None,
    relax: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
    second_opinion: "EnergySource | Iterable[EnergySource]" = (),
) -> DefectEnergy:
    r"""Formation energy of a neutral point defect by the difference of two supercells.

    .. math:: E_f = E_\mathrm{defective} - E_\mathrm{pristine} + \sum_i n_i \mu_i

    with :math:`n_i` atoms of element i removed (Zhang and Northrup, Phys. Rev. Lett. 67, 2339, 1991; Freysoldt et al.,
    Rev. Mod. Phys. 86, 253, 2014). Energies of compounds and of elements are added on one scale: where the model's are
    ``uncorrected`` (PBE+U of an oxide, PBE of a metal) the cells get the corrections of ``mp2020``, and ``scale`` and
    ``correction`` say so. The std is that of the difference within each member of the ensemble, calibrated:
    see :meth:`cgcnn_ase.energies.interface.Energies.combine`.

    Parameters
    ----------
    defective, pristine
        Two cells with the same vectors, as `ase.Atoms` or pymatgen ``Structure``.
    model
        What gives the energies: see :func:`cgcnn_ase.energies.energy_model.as_energy_model`.
    chemical_potentials
        Of all exchanged elements, eV/atom, on the scale of the model. By default those of ``limit``.
    limit
        ``elements``: the elements themselves, as the model's references have them. ``Li-rich``, ``O-poor``, ...: the
        highest or lowest potential of an element at which the host is in equilibrium with the competing phases
        (:func:`cgcnn_ase.stability.chemical_potentials.chemical_potentials`).
    phases
        Competing phases; by default the package's table of the Materials Project.
    relax, fmax, max_steps
        Move the atoms of both cells, whose vectors stay, until no force is above fmax (eV/Å); needs a model with
        forces: see :func:`cgcnn_ase.energies.relaxation.relax_cells`.
    second_opinion
        Other models, as ``model`` is given: the standard deviation over the energies of all, of the same cells, is
        ``second_opinion_std``. Chemical potentials are for each as far from the elements on its scale as they are for
        ``model``; a cell that another model cannot treat is told in ``note``.

    Raises
    ------
    ValueError
        If the cells differ in their vectors, a chemical potential is missing or on another scale than the others, the
        model has no forces to relax with, or a second opinion has neither energies of the elements nor its scale.
    cgcnn_ase.energies.relaxation.NotConvergedError
        If a relaxation does not end.
    """
    energies = defect_formation_energies(
        [defective], pristine, model, chemical_potentials=chemical_potentials, limit=limit, phases=phases, relax=relax,
        fmax=fmax, max_steps=max_steps, second_opinion=second_opinion,
    )  # fmt: skip
    return next(energies)


def defect_formation_energies(
    defective: "Sequence[Atoms | Structure]",
    pristine: "Atoms | Structure",
    model: EnergySource = "formation-energy-per-atom",
    *,
    chemical_potentials: Mapping[str, float] | None = None,
    limit: str = "elements",
    phases: "CompetingPhases | None" = None,
    relax: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
    on_unconverged: Literal["raise", "note"] = "raise",
    second_opinion: "EnergySource | Iterable[EnergySource]" = (),
) -> Iterator[DefectEnergy]:
    """Those of several defects of one supercell, whose energy is computed once; see :func:`defect_formation_energy`.

    With ``on_unconverged="note"`` a relaxation that does not end is no error: the energy is that of the last structure,
    ``converged`` is False and ``note`` says why. Of a defect whose relaxation breaks off it is that of the unrelaxed
    cell; a pristine cell of which it does is a `ValueError`.
    """
    source = as_energy_model(model)
    whole = as_atoms(pristine)
    cells = [whole, *map(as_atoms, defective)]
    exchanged = [exchanged_atoms(cell, whole) for cell in cells[1:]]
    chosen = ChosenPotentials.of(source, whole, exchanged, chemical_potentials, limit, phases)
    for removed in exchanged:
        chosen.potentials(removed)  # raises before anything is computed
    others = [(each, chosen.of_another(each, exchanged)) for each in opinion_models(second_opinion)]
    problems = [""] * len(cells)
    if relax:
        moved = relax_cells(cells, source, fmax=fmax, max_steps=max_steps)
        cells = [one.atoms if on_unconverged == "note" else converged_atoms(one) for one in moved]
        problems = [one.problem + (": the energy is that of the unrelaxed cell" if one.failed else "") for one in moved]
        if moved[0].failed:
            raise ValueError(f"the pristine cell is {moved[0].problem}")
    energies = source.energies(cells)
    opinions = [potentials.energies_by(other, cells, exchanged) for other, potentials in others]
    for k, removed in enumerate(exchanged, start=1):
        mu = chosen.potentials(removed)
        correction = chosen.correction(cells[k])
        coefficients = np.zeros(len(cells))
        coefficients[[0, k]] = -1.0, 1.0
        difference = energies.combine(coefficients)
        atoms = sum(n * mu[symbol] for symbol, n in removed.items()) + correction
        known = [energies.in_domain[0], energies.in_domain[k]]
        of_cells = (("pristine", problems[0]), ("defective", problems[k]))
        notes = [f"the {name} cell: {problem}" for name, problem in of_cells if problem]
        columns = [(other.name, column[k - 1]) for (other, _), column in zip(others, opinions, strict=True)]
        disagreement, missing = second_opinion_std(difference.value + atoms, columns)
        yield DefectEnergy(
            energy=difference.value + atoms,
            std=difference.std,
            members=None if difference.members is None else tuple(m + atoms for m in difference.members),
            std_if_independent=None if energies.stds is None else float(np.hypot(energies.stds[0], energies.stds[k])),
            removed=removed,
            chemical_potentials=chosen.shown(mu),
            n_atoms=(len(whole), len(cells[k])),
            in_domain=None if None in known else all(known),
            model=source.name,
            was_relaxed=relax,
            converged=None if not relax else not (problems[0] or problems[k]),
            note="; ".join(filter(None, (*notes, chosen.note, missing))),
            scale=chosen.scale,
            correction=correction,
            limit=chosen.limit,
            limit_phases=chosen.limit_phases,
            second_opinion_std=disagreement,
        )


def opinion_models(sources: "EnergySource | Iterable[EnergySource]") -> list[EnergyModel]:
    """Load the models of second opinions, one or several; errors are those of `as_energy_model`."""
    return [as_energy_model(source) for source in as_list(sources)]


def as_list(sources: "EnergySource | Iterable[EnergySource]") -> list[EnergySource]:
    """One model or several as a list."""
    if isinstance(sources, Iterable) and not isinstance(sources, str | Path):
        return list(sources)
    return [sources]


def second_opinion_std(energy: float, others: Sequence[tuple[str, float | str]]) -> tuple[float | None, str]:
    """Return the standard deviation of an energy and those by other models, eV, and in words which have none."""
    values = [value for _, value in others if not isinstance(value, str)]
    why = "; ".join(f"no second opinion by {name}: {value}" for name, value in others if isinstance(value, str))
    return (float(np.std([energy, *values])) if values else None), why


def exchanged_atoms(defective: "Atoms", pristine: "Atoms") -> dict[str, int]:
    """Atoms of each element that left, those that came as negative numbers."""
    ours, theirs = np.asarray(pristine.cell), np.asarray(defective.cell)
    if not np.allclose(ours, theirs, atol=_CELL * float(np.abs(ours).max())):
        raise ValueError(
            f"the defective cell ({defective.get_chemical_formula()}) and the pristine one "
            f"({pristine.get_chemical_formula()}) have different cell vectors; both must be the same supercell"
        )
    before = Counter(pristine.get_chemical_symbols())
    after = Counter(defective.get_chemical_symbols())
    return {s: before[s] - after[s] for s in sorted(before | after) if before[s] != after[s]}


@dataclass(frozen=True)
class ChosenPotentials:
    """The chemical potentials of a host, the scale that they are on, and how energies of cells come to it."""

    host: "Atoms"
    table: Mapping[str, float]  # eV/atom
    model: str
    source_scale: str | None  # of the model
    scale: str | None
    limit: str
    limit_phases: tuple[str, ...] = ()
    note: str = ""
    elements: Mapping[str, float] = field(default_factory=dict)  # energies on the scale of the model, eV/atom

    @classmethod
    def of(
        cls,
        source: EnergyModel,
        host: "Atoms",
        exchanged: Sequence[Mapping[str, int]],
        stated: Mapping[str, float] | None,
        limit: str,
        phases: CompetingPhases | None,
    ) -> "ChosenPotentials":
        """Choose them for all defects of a host; raises as :func:`defect_formation_energy`."""
        model_scale, elements = scale_of(source), dict(source.references or {})
        symbols = sorted({symbol for removed in exchanged for symbol in removed})
        comparable = model_scale in SCALES and _are_elements_of(elements, symbols, str(model_scale))
        if limit != ELEMENTS:
            if stated:
                raise ValueError(f"limit {limit!r} and chemical potentials of your own: give one of the two")
            if model_scale is None or not comparable:
                what = "not known to be" if model_scale is None else f"on {model_scale}, or its elements are not"
                raise ValueError(
                    f"limit {limit!r}: the hull is on a scale of the Materials Project, and the energies of "
                    f"{source.name!r} are {what}; state it (scale=), or give chemical potentials"
                )
            known = phases or known_phases("mp-legacy" if model_scale == "mp-legacy" else "mp2020")
            at = chemical_potentials_at(reduced(host.get_chemical_formula()), limit, known, elements=symbols)
            table = {symbol: elements[symbol] + at.relative[symbol] for symbol in symbols}
            return cls(host, table, source.name, model_scale, known.scale, limit, at.phases, at.note, elements)
        if stated:
            table = elements | dict(stated)
            chosen = cls(host, table, source.name, model_scale, model_scale, "given", elements=elements)
            chosen._check_default(exchanged, stated, comparable=comparable)
            return chosen
        scale = with_elements(model_scale) if comparable else model_scale
        return cls(host, elements, source.name, model_scale, scale, limit, elements=elements)

    def of_another(self, model: EnergyModel, exchanged: Sequence[Mapping[str, int]]) -> "ChosenPotentials":
        """Return those for the energies of another model: as far from the energies of the elements on its scale.

        Where both scales are known the result is on the same one. A model without energies of the elements takes these
        potentials as they are if it states the same scale, and is refused otherwise.
        """
        scale, theirs = scale_of(model), dict(model.references or {})
        symbols = sorted({symbol for removed in exchanged for symbol in removed})
        missing = [symbol for symbol in symbols if symbol not in theirs or symbol not in self.elements]
        if missing and (scale is None or scale != self.source_scale):
            who = model.name if missing[0] not in theirs else self.model
            raise ValueError(
                f"no second opinion by {model.name}: the energy of {', '.join(missing)} on the scale of {who} is not "
                "known; give it as as_energy_model(calculator, references={'" + missing[0] + "': eV/atom, ...})"
            )
        if missing:
            return replace(self, model=model.name)
        table = {each: theirs[each] + self.table[each] - self.elements[each] for each in symbols}
        to = scale
        if scale in SCALES and _are_elements_of(theirs, symbols, str(scale)):
            to = self.scale if self.scale in SCALES else with_elements(scale)
        return replace(self, table=table, model=model.name, source_scale=scale, scale=to, elements=theirs)

    def energies_by(
        self, model: EnergyModel, cells: "Sequence[Atoms]", exchanged: Sequence[Mapping[str, int]]
    ) -> list[float | str]:
        """Formation energies of the defects in all cells but the first, which is pristine, eV, or why there is none."""
        pristine, *defective = energies_or_failures(model, cells)
        if isinstance(pristine, str):
            return [f"the pristine cell: {pristine}"] * len(defective)
        return [
            energy
            if isinstance(energy, str)
            else energy - pristine + sum(n * self.table[each] for each, n in removed.items()) + self.correction(atoms)
            for energy, removed, atoms in zip(defective, exchanged, cells[1:], strict=True)
        ]

    def _check_default(
        self, exchanged: Sequence[Mapping[str, int]], stated: Mapping[str, float], *, comparable: bool
    ) -> None:
        """Refuse the energy of an element beside given potentials where it is on another scale than the cells."""
        to = with_elements(self.source_scale)
        if not comparable or to == self.source_scale:
            return
        for symbol in sorted({each for removed in exchanged for each in removed} - set(stated)):
            fewer = self.host.copy()
            del fewer[[k for k, each in enumerate(self.host.symbols) if each == symbol][:1]]
            if abs(self._between(fewer, str(to))) > _SMALL or symbol not in self.host.symbols:
                raise ValueError(
                    f"two scales: chemical potentials are given on that of the cells, {self.source_scale}, and the "
                    f"energy of {symbol} is that of the element, which needs corrections beside a compound: give that "
                    f"of {symbol}, too, or none"
                )

    def potentials(self, removed: Mapping[str, int]) -> dict[str, float]:
        """Those of the exchanged elements; a ValueError names one that is missing."""
        if missing := sorted(set(removed) - set(self.table)):
            raise ValueError(
                f"no chemical potential for {', '.join(missing)} on the energy scale of {self.model!r}: give "
                "chemical_potentials={'" + missing[0] + "': eV/atom, ...}"
            )
        return {symbol: float(self.table[symbol]) for symbol in removed}

    def shown(self, potentials: Mapping[str, float]) -> dict[str, float]:
        """Those of the exchanged elements on the scale of the result."""
        if self.scale == self.source_scale:
            return dict(potentials)
        before, after = element_energies(str(self.source_scale)), element_energies(str(self.scale))
        return {each: mu + after.get(each, 0.0) - before.get(each, 0.0) for each, mu in potentials.items()}

    def correction(self, defective: "Atoms") -> float:
        """Return what brings the difference of a defective cell to the scale, eV."""
        return 0.0 if self.scale == self.source_scale else self._between(defective, str(self.scale))

    def _between(self, defective: "Atoms", to: str) -> float:
        formulas = (self.host.get_chemical_formula(), defective.get_chemical_formula())
        return reaction_correction(*formulas, source=str(self.source_scale), to=to, atoms=self.host)


def _are_elements_of(references: Mapping[str, float], symbols: Sequence[str], scale: str) -> bool:
    """Say whether energies of elements are those of a scale, or all 0 as of formation energies."""
    known = element_energies(scale)
    return all(
        symbol in references
        and (abs(references[symbol] - known.get(symbol, np.inf)) < _SMALL or not references[symbol])
        for symbol in symbols
    )
