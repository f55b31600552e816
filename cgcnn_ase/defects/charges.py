"""Likely charge states and oxidation states of defects, as doped guesses them."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cgcnn_ase.defects.host import check_host
from cgcnn_ase.defects.plan import Defect

if TYPE_CHECKING:
    from ase import Atoms

#: seconds that the guess of the host's oxidation states may take, for each of doped's two ways
_PATIENCE = 10.0


def with_charges(defects: Iterable[Defect], host: "Atoms") -> Iterator[Defect]:
    """The same defects with the charge states and oxidation states that doped guesses, in their manifests.

    They come from the oxidation states of the host and how common each is (Kavanagh et al., J. Open Source Softw. 9,
    6433, 2024). The structures are not changed, and neither is the ``charge`` in the manifest. doped takes seconds to
    import, and about 0.1 s a defect. It guesses for one site: pairs and complexes pass as they are.

    Parameters
    ----------
    defects
        Those of `point_defects`.
    host
        The host they were made of.

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
        raise ImportError('charge states are guessed by doped: pip install "cgcnn-ase[defects]"') from error
    from pymatgen.core import Lattice, Structure

    checked = check_host(host)
    bare = Structure(Lattice(checked.cell), checked.atoms.get_chemical_symbols(), checked.frac)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        charged = guess_and_set_oxi_states_with_timeout(bare, timeout_1=_PATIENCE, timeout_2=_PATIENCE)
    if not charged:
        raise ValueError(f"{bare.composition.reduced_formula}: no oxidation states can be guessed, so no charge states")
    return _guessed(defects, charged)


def _guessed(defects: Iterable[Defect], host: Any) -> Iterator[Defect]:
    for defect in defects:
        manifest = defect.manifest
        if len(manifest.removed) > 1 or len(manifest.added) > 1 or "+" in manifest.defect:
            yield defect
            continue
        oxidation_state, charges = _guess(defect, host)
        manifest = replace(manifest, oxidation_state=oxidation_state, charges=charges)
        defect.atoms.info.update(manifest.to_info())
        yield Defect(defect.atoms, manifest)


def _guess(defect: Defect, host: Any) -> tuple[int, tuple[int, ...]]:
    import doped.core
    import doped.generation
    from pymatgen.core import Element, PeriodicSite

    kinds: Any = doped.core
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
