"""The formation energy of a neutral defect from two supercells, with the error of their difference."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cgcnn_ase.energies.energy_model import EnergySource, as_energy_model
from cgcnn_ase.energies.graph_model import mixed_scales
from cgcnn_ase.energies.interface import EnergyModel
from cgcnn_ase.energies.relaxation import converged_atoms, relax_cells
from cgcnn_ase.structures import as_atoms

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# the two cells may differ by this part of their lengths
_CELL = 1e-3


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
    chemical_potentials: dict[str, float]  # of those elements, eV/atom, on the scale of the model
    n_atoms: tuple[int, int]  # of the pristine and of the defective cell
    in_domain: bool | None  # whether the model knows structures like both cells; None where it cannot tell
    model: str  # what gave the energies
    was_relaxed: bool  # whether the atoms were moved to where the forces vanish
    converged: bool | None = None  # whether they vanish in both cells; None where nothing was relaxed
    # why the energy is not that of two relaxed cells, and where energies of two scales were added; empty where all is
    # well
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """Field names and values."""
        return asdict(self)


def defect_formation_energy(
    defective: "Atoms | Structure",
    pristine: "Atoms | Structure",
    model: EnergySource = "formation-energy-per-atom",
    *,
    chemical_potentials: Mapping[str, float] | None = None,
    relax: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
) -> DefectEnergy:
    r"""Formation energy of a neutral point defect by the difference of two supercells.

    .. math:: E_f = E_\mathrm{defective} - E_\mathrm{pristine} + \sum_i n_i \mu_i

    with :math:`n_i` atoms of element i removed (Zhang and Northrup, Phys. Rev. Lett. 67, 2339, 1991; Freysoldt et al.,
    Rev. Mod. Phys. 86, 253, 2014). The std is that of the difference within each member of the ensemble, calibrated:
    see :meth:`cgcnn_ase.energies.interface.Energies.combine`.

    Parameters
    ----------
    defective, pristine
        Two cells with the same vectors, as `ase.Atoms` or pymatgen ``Structure``.
    model
        What gives the energies: see :func:`cgcnn_ase.energies.energy_model.as_energy_model`.
    chemical_potentials
        Of the exchanged elements, eV/atom; by default the elements themselves as the model's references have them. For
        oxygen-poor conditions give ``{"O": reference - shift}``.
    relax, fmax, max_steps
        Move the atoms of both cells, whose vectors stay, until no force is above fmax (eV/Å); needs a model with
        forces: see :func:`cgcnn_ase.energies.relaxation.relax_cells`.

    Raises
    ------
    ValueError
        If the cells differ in their vectors, a chemical potential is missing, or the model has no forces to relax
        with.
    cgcnn_ase.energies.relaxation.NotConvergedError
        If a relaxation does not end.
    """
    energies = defect_formation_energies(
        [defective], pristine, model, chemical_potentials=chemical_potentials, relax=relax, fmax=fmax,
        max_steps=max_steps,
    )  # fmt: skip
    return next(energies)


def defect_formation_energies(
    defective: "Sequence[Atoms | Structure]",
    pristine: "Atoms | Structure",
    model: EnergySource = "formation-energy-per-atom",
    *,
    chemical_potentials: Mapping[str, float] | None = None,
    relax: bool = False,
    fmax: float = 0.05,
    max_steps: int = 500,
    on_unconverged: Literal["raise", "note"] = "raise",
) -> Iterator[DefectEnergy]:
    """Those of several defects of one supercell, whose energy is computed once; see :func:`defect_formation_energy`.

    With ``on_unconverged="note"`` a relaxation that does not end is no error: the energy is that of the last structure,
    ``converged`` is False and ``note`` says why. Of a defect whose relaxation breaks off it is that of the unrelaxed
    cell; a pristine cell of which it does is a `ValueError`.
    """
    source = as_energy_model(model)
    whole = as_atoms(pristine)
    cells = [whole, *map(as_atoms, defective)]
    exchanged = [_removed(cell, whole) for cell in cells[1:]]
    potentials = [_potentials(removed, source, chemical_potentials) for removed in exchanged]
    problems = [""] * len(cells)
    if relax:
        moved = relax_cells(cells, source, fmax=fmax, max_steps=max_steps)
        cells = [one.atoms if on_unconverged == "note" else converged_atoms(one) for one in moved]
        problems = [one.problem + (": the energy is that of the unrelaxed cell" if one.failed else "") for one in moved]
        if moved[0].failed:
            raise ValueError(f"the pristine cell is {moved[0].problem}")
    energies = source.energies(cells)
    for k, (removed, mu) in enumerate(zip(exchanged, potentials, strict=True), start=1):
        coefficients = np.zeros(len(cells))
        coefficients[[0, k]] = -1.0, 1.0
        difference = energies.combine(coefficients)
        atoms = sum(n * mu[symbol] for symbol, n in removed.items())
        known = [energies.in_domain[0], energies.in_domain[k]]
        of_cells = (("pristine", problems[0]), ("defective", problems[k]))
        notes = [f"the {name} cell: {problem}" for name, problem in of_cells if problem]
        by_default = set(removed) - set(chemical_potentials or {})
        yield DefectEnergy(
            energy=difference.value + atoms,
            std=difference.std,
            members=None if difference.members is None else tuple(m + atoms for m in difference.members),
            std_if_independent=None if energies.stds is None else float(np.hypot(energies.stds[0], energies.stds[k])),
            removed=removed,
            chemical_potentials=mu,
            n_atoms=(len(whole), len(cells[k])),
            in_domain=None if None in known else all(known),
            model=source.name,
            was_relaxed=relax,
            converged=None if not relax else not (problems[0] or problems[k]),
            note="; ".join(filter(None, (*notes, mixed_scales(source, by_default, whole.get_chemical_symbols())))),
        )


def _removed(defective: "Atoms", pristine: "Atoms") -> dict[str, int]:
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


def _potentials(
    removed: Mapping[str, int], source: EnergyModel, chemical_potentials: Mapping[str, float] | None
) -> dict[str, float]:
    table = {**(source.references or {}), **(chemical_potentials or {})}
    if missing := sorted(set(removed) - set(table)):
        raise ValueError(
            f"no chemical potential for {', '.join(missing)} on the energy scale of {source.name!r}: give "
            "chemical_potentials={'" + missing[0] + "': eV/atom, ...}"
        )
    return {symbol: float(table[symbol]) for symbol in removed}
