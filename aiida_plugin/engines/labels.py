"""Labels of a run in ASE's units, order and signs, and limits that no structure and no label may exceed.

The limits, by which nonsense is refused and not learned, are settings of every engine (``common.yaml``):
``min_distance``, ``max_force`` and ``max_energy``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_plugin.data.labels import SCHEME
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.engines.protocol import shared_default
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.structures.validation import completed_cell, near_pairs

if TYPE_CHECKING:
    from aiida.orm import ProcessNode, Str, StructureData
    from ase import Atoms
    from numpy.typing import ArrayLike

_NO_VOLUME = 1e-3  # Å³; a cell of less is none


def labelled_set(
    structure: "StructureData",
    structure_id: "Str",
    scheme: Mapping[str, object],
    energy: float,  # eV
    *,
    forces: "ArrayLike | None" = None,  # eV/Å, shape (n_atoms, 3)
    pressure: "ArrayLike | None" = None,  # eV/Å³, shape (3, 3); the codes' sign, which counts compression as positive
    magmoms: "ArrayLike | None" = None,  # μB, shape (n_atoms,)
    is_free_energy: bool = False,  # of the electrons at the smearing's temperature
) -> StructureSetData:
    """Make a set of one labelled structure, which stands where the last step was made.

    `scheme` says what made the labels, the engine's name among it; see :mod:`aiida_plugin.data.labels`.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    atoms = structure.get_ase()
    atoms.info[SCHEME] = dict(scheme)
    free = {"free_energy": energy} if is_free_energy else {}
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **free)
    atoms.calc.name = str(scheme["engine"])
    if forces is not None:
        atoms.calc.results["forces"] = np.array(forces, dtype=float)
    if pressure is not None:
        atoms.calc.results["stress"] = -full_3x3_to_voigt_6_stress(np.array(pressure, dtype=float))
    if magmoms is not None:
        atoms.calc.results["magmoms"] = np.array(magmoms, dtype=float)
    return StructureSetData.from_ase([atoms], [structure_id.value])


def check_outputs(run: "ProcessNode", *names: str) -> None:
    """Refuse a run without the outputs that its labels are read from."""
    if missing := [name for name in names if name not in run.outputs]:
        raise ValueError(f"the run {run.pk} has no {missing[0]}, so no energy; exit code: {run.exit_status}")


def structure_error(atoms: "Atoms", settings: Mapping[str, Any]) -> str | None:
    """Find why no engine should compute a structure; None if nothing is wrong.

    Refused are dummy atoms, moments with a direction, no cell, and atoms that overlap.
    """
    if not atoms.numbers.all():
        return "it has dummy atoms (X); no engine takes them"
    if atoms.get_initial_magnetic_moments().ndim != 1:
        return "its magnetic moments have a direction; give one number an atom"
    if abs(atoms.cell.volume) < _NO_VOLUME:
        return "it has no cell; give a molecule a box (atoms.center(vacuum=5)), and a crystal its lattice"
    return _distance_error(atoms, _limit(settings, "min_distance"))


def label_error(atoms: "Atoms", settings: Mapping[str, Any]) -> str | None:
    """Find what is implausible about a labelled structure; None if nothing is.

    Parameters
    ----------
    atoms
        With its results; of a relaxation at the last positions.
    settings
        ``min_distance``, ``max_force`` (eV/Å) and ``max_energy`` (eV/atom), as in ``common.yaml``.
    """
    results = atoms.calc.results
    for name, value in results.items():
        if not np.isfinite(np.asarray(value, dtype=float)).all():
            return f"{name} is not finite"
    if reason := _distance_error(atoms, _limit(settings, "min_distance")):
        return reason
    energy, most = float(results["energy"]) / len(atoms), _limit(settings, "max_energy")
    if energy > most:
        return f"its energy is {energy:.4g} eV/atom, which no crystal has (max_energy: {most:g} eV/atom above zero)"
    forces, largest = results.get("forces"), _limit(settings, "max_force")
    if forces is not None and (norms := np.linalg.norm(np.asarray(forces, dtype=float), axis=1)).max() > largest:
        atom = int(norms.argmax())
        return (
            f"the force on atom {atom + 1} ({atoms.symbols[atom]}) is {norms[atom]:.4g} eV/Å (max_force: {largest:g} "
            "eV/Å)"
        )
    return None


def formation_energy_error(energy: float | None, settings: Mapping[str, Any]) -> str | None:
    """Find whether a formation energy (eV/atom) is beyond ``max_energy``; None if not, or if there is none."""
    most = _limit(settings, "max_energy")
    if energy is None or abs(energy) <= most:
        return None
    return f"its formation energy is {energy:.4g} eV/atom (max_energy: {most:g} eV/atom either way)"


def energy_outliers(structures: "Mapping[str, Atoms]", settings: Mapping[str, Any]) -> dict[str, str]:
    """Find labelled structures whose energy is far above the lowest of their composition; the reason by name."""
    most = _limit(settings, "max_energy")
    energies = {name: float(atoms.calc.results["energy"]) / len(atoms) for name, atoms in structures.items()}
    compositions = {name: composition_key(atoms.numbers) for name, atoms in structures.items()}
    lowest: dict[object, str] = {}
    for name, composition in compositions.items():
        other = lowest.setdefault(composition, name)
        if energies[name] < energies[other]:
            lowest[composition] = name
    return {
        name: f"its energy is {energies[name] - energies[other]:.4g} eV/atom above that of {other!r}, of the same "
        f"composition (max_energy: {most:g} eV/atom)"
        for name, composition in compositions.items()
        if energies[name] - energies[other := lowest[composition]] > most
    }


def _limit(settings: Mapping[str, Any], name: str) -> float:
    return float(settings[name] if name in settings else shared_default(name))


def _distance_error(atoms: "Atoms", ratio: float) -> str | None:
    """Find the two atoms that overlap most, periodic images included; None if none are too near."""
    from ase.neighborlist import natural_cutoffs

    radii = np.array(natural_cutoffs(atoms, mult=ratio))
    cell = completed_cell(atoms.cell.array, atoms.pbc)
    first, second, distances = near_pairs(atoms.positions, cell, atoms.pbc, 2 * float(radii.max()))
    room = distances - radii[first] - radii[second]
    if not (room < 0).any():
        return None
    worst = int(room.argmin())
    i, j = sorted((int(first[worst]), int(second[worst])))
    what = f"atoms {i + 1} ({atoms.symbols[i]}) and {j + 1} ({atoms.symbols[j]}) are"
    if i == j:
        what = f"atom {i + 1} ({atoms.symbols[i]}) and its own image are"
    return (
        f"{what} {distances[worst]:.3g} Å apart; at least {radii[i] + radii[j]:.3g} Å are needed (min_distance: "
        f"{ratio:g} of the sum of their covalent radii)"
    )
