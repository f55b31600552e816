"""Crystals with labels as DFT would have left them, and models and settings that train in a second."""

from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from ..conftest import make_model

SCHEME = {"engine": "gpaw", "engine_version": "26.7.0", "functional": "PBE", "cutoffs": {"pw": 400.0}}
#: lattice constants (Å) of rock-salt oxides
OXIDES = {"Mg": 4.21, "Ni": 4.18, "Ca": 4.81, "Mn": 4.44, "Fe": 4.33, "Co": 4.26, "Cd": 4.70, "Sr": 5.16}
#: settings of a run of a second
TINY = {
    "epochs": 2, "batch_size": 8, "engine": "torch",
    "graph": {"rule": "shell", "cutoff": 5.0, "n_neighbors": 6, "merge": True},
    "network": {"n_features": 8, "n_convolutions": 1, "n_hidden": 8, "n_gaussians": 8, "cutoff": 5.0},
}  # fmt: skip


def formation_energy(atoms) -> float:
    """A made-up number that is smooth in the volume and linear in the composition, eV/atom."""
    return -1.0 - 0.01 * float(atoms.numbers.mean()) + 0.02 * (atoms.get_volume() / len(atoms) - 9.0)


def oxide(metal, strain=1.0, *, scheme=SCHEME, label=True):
    """A rock-salt oxide with energy, formation energy and, where there is one, scheme."""
    atoms = bulk(f"{metal}O", "rocksalt", a=OXIDES[metal] * strain)
    if label:
        value = formation_energy(atoms)
        atoms.info["formation_energy_per_atom"] = value
        atoms.calc = SinglePointCalculator(atoms, energy=(value - 5.0) * len(atoms))
    if scheme is not None:
        atoms.info["label_scheme"] = dict(scheme)
    return atoms


def oxides(n, *, metals=tuple(OXIDES), **options):
    """n of them by id, metals in turn, each more strained than the one before."""
    return {f"{m}O-{k}": oxide(m, 0.97 + 0.004 * k, **options) for k, m in ((k, metals[k % len(metals)]) for k in range(n))}


def small_formation_model(**options):
    """A small ensemble with random weights on the graphs of :data:`TINY`'s kind."""
    return make_model(n_members=2, mean_variance=False, **options)
