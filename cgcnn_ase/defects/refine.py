"""Refine defects with the field's own packages: likely charge states by doped, distorted bonds by ShakeNBreak."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import MissingExtraError
from cgcnn_ase.defects.host import check_host
from cgcnn_ase.defects.plan import Defect

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# seconds that the guess of the host's oxidation states may take, for each of doped's two ways
_PATIENCE = 10.0

# an atom this near to the defect's position is the defect itself, Å
_HERE = 0.05


def with_charges(defects: Iterable[Defect], host: "Atoms") -> Iterator[Defect]:
    """Yield the same defects with the charge states and oxidation states that doped guesses, in their manifests.

    They come from the oxidation states of the host and how common each is (Kavanagh et al., J. Open Source Softw. 9,
    6433, 2024). The structures are not changed, and neither is the ``charge`` in the manifest. doped takes seconds to
    import, and about 0.1 s a defect. It guesses for one site: pairs and complexes pass as they are.

    Raises
    ------
    ImportError
        At once, if doped is not installed.
    ValueError
        If no oxidation states of the host can be guessed.
    """
    try:
        from doped.core import guess_and_set_oxi_states_with_timeout
    except ImportError as error:
        raise MissingExtraError("a guess of charge states", "doped") from error
    from pymatgen.core import Lattice, Structure

    checked = check_host(host)
    bare = Structure(Lattice(checked.cell), checked.atoms.get_chemical_symbols(), checked.frac)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        charged = guess_and_set_oxi_states_with_timeout(bare, timeout_1=_PATIENCE, timeout_2=_PATIENCE)
    if not isinstance(charged, Structure):
        raise ValueError(f"{bare.composition.reduced_formula}: no oxidation states can be guessed, so no charge states")
    return _guessed(defects, charged)


def _guessed(defects: Iterable[Defect], host: "Structure") -> Iterator[Defect]:
    for defect in defects:
        manifest = defect.manifest
        if len(manifest.removed) > 1 or len(manifest.added) > 1 or "+" in manifest.defect:
            yield defect
            continue
        oxidation_state, charges = _guess(defect, host)
        manifest = replace(manifest, oxidation_state=oxidation_state, charges=charges)
        defect.atoms.info.update(manifest.to_info())
        yield Defect(defect.atoms, manifest)


def _guess(defect: Defect, host: "Structure") -> tuple[int, tuple[int, ...]]:
    import doped.core
    import doped.generation
    from pymatgen.core import Element, PeriodicSite

    kinds: Any = doped.core  # its classes have no types
    guess: Any = doped.generation.guess_defect_charge_states
    manifest = defect.manifest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if manifest.site_index is None:
            site = PeriodicSite(Element(manifest.added[0]), manifest.position, host.lattice, coords_are_cartesian=True)
            made = kinds.Interstitial(host, site, multiplicity=manifest.multiplicity)
        elif manifest.added:
            site_coords = host[manifest.site_index].frac_coords
            made = kinds.Substitution(host, PeriodicSite(Element(manifest.added[0]), site_coords, host.lattice))
        else:
            made = kinds.Vacancy(host, host[manifest.site_index])
        charges = tuple(sorted(int(charge) for charge in guess(made)))
    return round(made.oxi_state), charges


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
        raise MissingExtraError("a distortion", "shakenbreak") from error
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
    site_index, frac_coords = _site(defect)
    structure = Structure(Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.get_scaled_positions())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved = distort_and_rattle(
            structure,
            distortion_factor=1 + bond_distortion,
            num_nearest_neighbours=neighbors,
            stdev=stdev,
            seed=seed,
            site_index=site_index,
            frac_coords=frac_coords,
        )
    steps = moved["distorted_structure"].frac_coords - atoms.get_scaled_positions(wrap=False)
    copy = atoms.copy()
    copy.positions += (steps - np.rint(steps)) @ atoms.cell.array
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


def _site(defect: Defect) -> tuple[int | None, Floats | None]:
    """Site of the defect: an atom, or a position without one."""
    atoms, manifest = defect
    frac = np.linalg.solve(atoms.cell.array.T, manifest.position)
    delta = atoms.get_scaled_positions() - frac
    lengths = np.linalg.norm((delta - np.rint(delta)) @ atoms.cell.array, axis=1)
    nearest = int(lengths.argmin())
    return (nearest, None) if lengths[nearest] < _HERE else (None, frac % 1.0)
