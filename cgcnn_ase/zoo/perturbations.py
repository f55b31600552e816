"""Crystals pushed off equilibrium in the ways that users' structures are: what the geometric std is fitted on."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.errors import unknown_name

if TYPE_CHECKING:
    from ase import Atoms

# linear strains, standard deviations of the rattling in Å, and vacuum in Å that are drawn from
_SCALES = (0.70, 0.80, 0.88, 0.93, 0.97, 1.03, 1.07, 1.15, 1.30)
_RATTLES = (0.05, 0.1, 0.2, 0.3, 0.5)
_VACUUM = 12.0
# atoms of a supercell that a point defect is made in, about
_SUPERCELL_ATOMS = 16
# no two atoms of a soup are nearer than this, in Å
_SOUP_CONTACTS = (0.8, 1.2, 1.6)
# elements that substitutions draw from: those of most crystals of the Materials Project
_SUBSTITUTES = (
    3, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 37, 38, 39, 40,
    41, 42, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 56, 57, 72, 73, 74, 77, 78, 79, 82, 83,
)  # fmt: skip


class Perturbed(NamedTuple):
    """A perturbed crystal, which crystal it comes from, and by how much it was pushed."""

    atoms: "Atoms"
    kind: str
    base: int  # index of the crystal among those given
    amount: float  # linear strain, Å of rattling, shortest contact allowed, or 0


def strained(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Scale the cell, with a little shear."""
    scale = float(rng.choice(_SCALES))
    strain = np.eye(3) * scale + rng.normal(0, 0.02, (3, 3))
    return _with_cell(atoms, atoms.cell.array @ strain), scale - 1


def rattled(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Displace all atoms at random."""
    sigma = float(rng.choice(_RATTLES))
    moved = atoms.copy()
    moved.positions += rng.normal(0, sigma, moved.positions.shape)
    return moved, sigma


def permuted(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Exchange the elements among the sites; ValueError of an elemental crystal."""
    if len(set(atoms.numbers.tolist())) < 2:
        raise ValueError("all atoms are of one element")
    mixed = atoms.copy()
    while np.array_equal(mixed.numbers, atoms.numbers):
        mixed.numbers = rng.permutation(atoms.numbers)
    return mixed, 0.0


def soup(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Put the atoms at random places of the cell, none nearer to another than a chosen distance where that fits."""
    from ase.geometry import get_distances

    least = float(rng.choice(_SOUP_CONTACTS))
    mixed = atoms.copy()
    sites: list[list[float]] = []
    for _ in range(len(atoms)):
        for _ in range(50):
            site = (rng.random(3) @ atoms.cell.array).tolist()
            near = get_distances([site], sites, cell=atoms.cell, pbc=True)[1].min() if sites else np.inf
            if near >= least:
                break
        sites.append(site)
    mixed.positions = sites
    return mixed, least


def substituted(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Replace one element by another, the cell scaled by their covalent radii."""
    from ase.data import covalent_radii

    old = int(rng.choice(sorted(set(atoms.numbers.tolist()))))
    new = int(rng.choice([z for z in _SUBSTITUTES if z not in atoms.numbers]))
    changed = atoms.copy()
    changed.numbers[atoms.numbers == old] = new
    scale = covalent_radii[changed.numbers].mean() / covalent_radii[atoms.numbers].mean()
    return _with_cell(changed, changed.cell.array * scale), 0.0


def vacancy(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Take one atom out of a supercell."""
    cell = _supercell(atoms)
    del cell[int(rng.integers(len(cell)))]
    return cell, 0.0


def interstitial(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Put one more atom of the crystal's own elements into the largest of some random holes of a supercell."""
    from ase.geometry import get_distances

    cell = _supercell(atoms)
    holes = rng.random((64, 3)) @ cell.cell.array
    room = get_distances(holes, cell.positions, cell=cell.cell, pbc=True)[1].min(axis=1)
    cell.append(int(rng.choice(atoms.numbers)))
    cell.positions[-1] = holes[int(np.argmax(room))]
    return cell, 0.0


def slab(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Cut along a lattice plane and put vacuum between, the cell repeated once where it is thin."""
    axis = int(rng.integers(3))
    repeats = [1, 1, 1]
    repeats[axis] = 2 if len(atoms) <= _SUPERCELL_ATOMS // 2 else 1
    cut = atoms * repeats
    cut.wrap(pbc=True)
    return _opened(cut, [axis]), 0.0


def molecule(atoms: "Atoms", rng: np.random.Generator) -> tuple["Atoms", float]:
    """Take the contents of one cell out into vacuum, or a single atom."""
    if rng.random() < 0.25:
        return _opened(atoms[[int(rng.integers(len(atoms)))]], [0, 1, 2]), 0.0
    return _opened(atoms.copy(), [0, 1, 2]), 0.0


KINDS: dict[str, Callable[["Atoms", np.random.Generator], tuple["Atoms", float]]] = {
    "strained": strained,
    "rattled": rattled,
    "permuted": permuted,
    "soup": soup,
    "substituted": substituted,
    "vacancy": vacancy,
    "interstitial": interstitial,
    "slab": slab,
    "molecule": molecule,
}


def perturb(
    crystals: Sequence["Atoms"], *, n: int, kinds: Sequence[str] = tuple(KINDS), seed: int = 0
) -> Iterator[Perturbed]:
    """So many perturbed crystals of each kind; the same seed gives the same ones.

    Raises
    ------
    ValueError
        If a kind does not exist, or none of the crystals can be perturbed in that way.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of perturbation", kind, list(KINDS))
        rng = np.random.default_rng([seed, list(KINDS).index(kind)])
        made = tried = 0
        while made < n:
            base = int(rng.integers(len(crystals)))
            tried += 1
            try:
                atoms, amount = KINDS[kind](crystals[base], rng)
            except ValueError:
                if tried > 100 * n and not made:
                    raise
                continue
            made += 1
            yield Perturbed(atoms, kind, base, amount)


def _with_cell(atoms: "Atoms", cell: np.typing.NDArray[np.float64]) -> "Atoms":
    changed: Atoms = atoms.copy()
    changed.set_cell(cell, scale_atoms=True)
    return changed


def _supercell(atoms: "Atoms") -> "Atoms":
    """Repeat the shortest cell vector until there are enough atoms."""
    cell: Atoms = atoms.copy()
    while len(cell) < _SUPERCELL_ATOMS:
        repeats = [1, 1, 1]
        repeats[int(np.argmin(cell.cell.lengths()))] = 2
        cell = cell * repeats
    return cell


def _opened(atoms: "Atoms", axes: Sequence[int]) -> "Atoms":
    """Put vacuum along these cell vectors; the cell stays periodic."""
    opened: Atoms = atoms.copy()
    cell = atoms.cell.array.copy()
    for axis in axes:
        cell[axis] *= (np.linalg.norm(cell[axis]) + _VACUUM) / np.linalg.norm(cell[axis])
    opened.set_cell(cell, scale_atoms=False)
    return opened
