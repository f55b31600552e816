"""Bonds around a defect made shorter or longer, so that a relaxation can leave a symmetric saddle point."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from cgcnn_ase.defects.plan import Defect

#: an atom this near to the defect's position is the defect itself, Å
_HERE = 0.05


def distorted(
    defect: Defect,
    *,
    bond_distortion: float = -0.3,
    n_neighbors: int | None = None,
    stdev: float | None = None,
    seed: int = 42,
) -> Defect:
    """A defect with the bonds to its nearest neighbours distorted and all other atoms rattled, by ShakeNBreak.

    Distorted structures often relax to a lower energy than the ideal one (Mosquera-Lois, Kavanagh, Walsh, Scanlon,
    npj Comput. Mater. 9, 25, 2023).

    Parameters
    ----------
    defect
        One of `point_defects`; of a pair or complex the first site is distorted.
    bond_distortion
        Change of the bond lengths; -0.3 makes them 30 % shorter. ShakeNBreak tries -0.6 to 0.6.
    n_neighbors
        How many bonds; by default as many as ShakeNBreak would: the electrons that the defect has too few or too many
        in its charge state (8 less that from five on), 2 where its oxidation state was not guessed.
    stdev
        Standard deviation of the random displacements, Å; a tenth of the shortest bond by default.
    seed
        Of the random displacements.

    Raises
    ------
    ImportError
        If ShakeNBreak is not installed.
    ValueError
        If a number is out of range, or the supercell has a direction without cell vector.
    """
    try:
        from shakenbreak.distortions import distort_and_rattle
    except ImportError as error:
        raise ImportError('distortions are made by ShakeNBreak: pip install "cgcnn-ase[defects]"') from error
    from pymatgen.core import Lattice, Structure

    atoms, manifest = defect
    if not -1 < bond_distortion < 2:
        raise ValueError(f"bond_distortion {bond_distortion:g}: must be between -1 and 2 (-0.3: 30 % shorter)")
    if stdev is not None and not stdev > 0:
        raise ValueError(f"stdev {stdev:g}: must be a positive length in Å")
    if atoms.cell.rank < 3:
        raise ValueError(f"{manifest.id}: a distortion needs a cell vector in each direction; add a vacuum to the host")
    neighbors = _neighbors(defect) if n_neighbors is None else n_neighbors
    if not 0 <= neighbors < len(atoms):
        raise ValueError(f"n_neighbors {neighbors}: must be between 0 and {len(atoms) - 1}")
    structure = Structure(Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.get_scaled_positions())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = distort_and_rattle(
            structure,
            distortion_factor=1 + bond_distortion,
            num_nearest_neighbours=neighbors,
            stdev=stdev,
            seed=seed,
            **_site(defect),
        )
    moved = result["distorted_structure"].frac_coords - atoms.get_scaled_positions(wrap=False)
    copy = atoms.copy()
    copy.positions += (moved - np.rint(moved)) @ atoms.cell.array
    rattle = "0.1 d" if stdev is None else f"{stdev:g} Å"
    words = f"{bond_distortion:+.0%} of {neighbors} bonds, rattled by {rattle}"
    manifest = replace(manifest, distortion=words, seed=seed)
    copy.info.update(manifest.to_info())
    return Defect(copy, manifest)


def _neighbors(defect: Defect) -> int:
    """ShakeNBreak's rule for the number of bonds."""
    if defect.manifest.oxidation_state is None:
        return 2
    electrons = abs(defect.manifest.charge - defect.manifest.oxidation_state)
    return electrons if electrons <= 4 else abs(8 - electrons)


def _site(defect: Defect) -> dict[str, Any]:
    """Where the defect is: an atom, or a place without one."""
    atoms, manifest = defect
    frac = np.linalg.solve(atoms.cell.array.T, manifest.position)
    delta = atoms.get_scaled_positions() - frac
    lengths = np.linalg.norm((delta - np.rint(delta)) @ atoms.cell.array, axis=1)
    nearest = int(lengths.argmin())
    return {"site_index": nearest} if lengths[nearest] < _HERE else {"frac_coords": frac % 1.0}
