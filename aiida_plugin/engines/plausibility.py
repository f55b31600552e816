"""Limits that no structure and no label may exceed, so that nonsense is refused and not learned.

The limits are settings of every engine (``common.yaml``): ``min_distance``, ``max_force`` and ``max_energy``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_plugin.engines.protocol import shared_default
from cgcnn_ase.structures.composition import composition_key

if TYPE_CHECKING:
    from ase import Atoms

_NO_VOLUME = 1e-3  # Å³; a cell of less is none


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
    from ase.neighborlist import natural_cutoffs, neighbor_list

    radii = np.array(natural_cutoffs(atoms, mult=ratio))
    first, second, distances = neighbor_list("ijd", atoms, radii)
    if not len(distances):
        return None
    worst = int((distances - radii[first] - radii[second]).argmin())
    i, j = sorted((int(first[worst]), int(second[worst])))
    what = f"atoms {i + 1} ({atoms.symbols[i]}) and {j + 1} ({atoms.symbols[j]}) are"
    if i == j:
        what = f"atom {i + 1} ({atoms.symbols[i]}) and its own image are"
    return (
        f"{what} {distances[worst]:.3g} Å apart; at least {radii[i] + radii[j]:.3g} Å are needed (min_distance: "
        f"{ratio:g} of the sum of their covalent radii)"
    )
