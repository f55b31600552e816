"""Perfect and defective supercells in pairs, for a classifier to tell apart: of any host, and of cathodes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.defects.generate import random_vacancies
from cgcnn_ase.defects.host import check_host
from cgcnn_ase.defects.plan import Defect
from cgcnn_ase.defects.point import SINGLE, point_defects
from cgcnn_ase.defects.supercell import SupercellLike, make_supercell

if TYPE_CHECKING:
    from ase import Atoms

# what the crystals of the other class are called
PERFECT = "perfect"

# atoms around a vacancy up to so many times the distance of the nearest one are its neighbours
_SHELL = 1.2

# defects of the cells of cathodes
CATHODE_KINDS = ("vacancy", "exchange")


class DetectionCell(NamedTuple):
    """A supercell with its labels."""

    id: str  # unique among the cells of one call
    host: str  # name of the host
    atoms: "Atoms"  # the supercell
    kind: str  # ``perfect``, ``vacancy``, ``antisite``, ``substitution`` or ``interstitial``
    defect: str  # ``v_Li``, ``Ni_Li``, ``Li_i``; empty for a perfect cell
    # indices of the atoms where the defect is: the atom that is wrong, or the nearest ones around a vacancy
    places: tuple[int, ...]

    @property
    def defective(self) -> bool:
        """True where there is a defect."""
        return self.kind != PERFECT


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """Settings of the supercells of a host."""

    kinds: tuple[str, ...] = SINGLE  # of ``vacancy``, ``antisite``, ``substitution``, ``interstitial``
    supercell: SupercellLike = 3  # as in `point_defects`; a number is not applied along a vacuum
    # defects of each kind and host, drawn at random from all that symmetry tells apart; fewer where there are fewer
    n_defects: int = 1
    # standard deviation, Å, of the random displacements of each Cartesian coordinate, in both classes
    rattle: float = 0.0
    max_atoms: int | None = None  # hosts whose supercell would be larger are left out
    seed: int = 0  # each host has its own random numbers, from the seed and its name

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in SINGLE:
                raise unknown_name("kind", kind, SINGLE)
        if not self.kinds:
            raise ValueError(f"no kind of defect is given; allowed are {', '.join(SINGLE)}")
        if self.n_defects < 1:
            raise ValueError(f"n_defects {self.n_defects}: must be 1 or more")
        if not (np.isfinite(self.rattle) and self.rattle >= 0):
            raise ValueError(f"rattle {self.rattle}: must be a length in Å, 0 or more")


def detection_cells(
    hosts: Iterable[tuple[str, "Atoms"]], config: DetectionConfig, *, dopants: Sequence[str] = ()
) -> Iterator[DetectionCell]:
    """Yield each host's defective supercells, each followed by a perfect one: as many of either class, from the same
    hosts.

    Parameters
    ----------
    hosts
        Names, all different, and structures.
    config
        Settings of the supercells.
    dopants
        Elements that substitutions draw from, each as often as it is given (see `elements_of`); never the host's own.

    Raises
    ------
    ValueError
        If a host cannot be used, or there is no dopant for a substitution.

    Examples
    --------
    >>> from ase.build import bulk
    >>> salt = bulk("NaCl", "rocksalt", a=5.64)
    >>> cells = detection_cells([("NaCl", salt)], DetectionConfig(kinds=("vacancy",), n_defects=2))
    >>> sorted((cell.kind, cell.defect, len(cell.atoms)) for cell in cells)
    [('perfect', '', 54), ('perfect', '', 54), ('vacancy', 'v_Cl', 53), ('vacancy', 'v_Na', 53)]
    """
    for name, host in hosts:
        yield from _of_host(name, host, config, dopants)


def elements_of(hosts: Iterable["Atoms"]) -> list[str]:
    """The elements of each host, one host after the other: an element is there as often as hosts have it."""
    return [element for host in hosts for element in dict.fromkeys(host.get_chemical_symbols())]


def _of_host(name: str, host: "Atoms", config: DetectionConfig, dopants: Sequence[str]) -> Iterator[DetectionCell]:
    seed = [config.seed, int.from_bytes(sha256(name.encode()).digest()[:8], "big")]
    choice, shifts = np.random.default_rng(seed).spawn(2)  # the same defects with any displacements
    perfect = make_supercell(check_host(host, name), config.supercell).atoms
    if config.max_atoms is not None and len(perfect) > config.max_atoms:
        return
    for kind in config.kinds:
        for k, defect in enumerate(_drawn(name, host, kind, config, dopants, choice)):
            key = f"{name}:{kind}-{k}"
            atoms = rattled(defect.atoms, config.rattle, shifts)
            yield DetectionCell(key, name, atoms, kind, defect.manifest.defect, _places(defect, perfect))
            yield DetectionCell(f"{key}:{PERFECT}", name, rattled(perfect, config.rattle, shifts), PERFECT, "", ())


def _drawn(
    name: str, host: "Atoms", kind: str, config: DetectionConfig, dopants: Sequence[str], rng: np.random.Generator
) -> list[Defect]:
    """Some of the defects of a kind; none of those that the host cannot have."""
    host_elements = set(host.get_chemical_symbols())
    if kind == "antisite" and len(host_elements) == 1:
        return []
    chosen: list[str] | None = None
    if kind == "substitution":
        others = [element for element in dopants if element not in host_elements]
        if not others:
            raise ValueError(f"substitution: no dopant is given that {name} does not have")
        chosen = list(dict.fromkeys(rng.choice(others, config.n_defects).tolist()))
    every = list(point_defects(host, kind, supercell=config.supercell, dopants=chosen, name=name, min_radius=1.2))
    return [every[k] for k in rng.permutation(len(every))[: config.n_defects]]


def _places(defect: Defect, perfect: "Atoms") -> tuple[int, ...]:
    manifest = defect.manifest
    if manifest.kind == "interstitial":
        return (len(defect.atoms) - 1,)
    if manifest.kind != "vacancy":
        return manifest.sites
    return nearest(defect.atoms, perfect.positions[manifest.sites[0]])


def nearest(atoms: "Atoms", point: Floats) -> tuple[int, ...]:
    """The atoms around a point, Å: those up to 1.2 times as far as the nearest."""
    from ase.geometry import get_distances

    distances = get_distances(point, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1][0]
    return tuple(np.flatnonzero(distances <= _SHELL * distances.min()).tolist())


def rattled(atoms: "Atoms", std: float, rng: np.random.Generator) -> "Atoms":
    """A copy with normally distributed displacements of a standard deviation in Å."""
    moved: Atoms = atoms.copy()
    if std > 0:
        shift: Floats = rng.normal(scale=std, size=atoms.positions.shape)
        moved.positions += shift
    return moved


def cathode_cells(
    names: Sequence[str], *, num: int = 4, n_atoms: int = 80, rattle: float = 0.0, seed: int = 0
) -> Iterator[DetectionCell]:
    """Yield ``num`` random orderings of the metals of each cathode, each with either defect and twice without.

    A defective cell of the kind ``vacancy`` (of lithium) or ``exchange`` (of lithium and a metal) is followed by a
    perfect one; the hosts are called ``cathode:NAME``, the names are those of `build_cathode`. Random displacements
    have a standard deviation of ``rattle`` Å, in both classes. Ordering k of the metals is that of seed + k.
    """
    for name in names:
        for k in range(num):
            perfect = build_cathode(name, n_atoms=n_atoms, seed=seed + k)
            rng = np.random.default_rng([seed, k])
            host = f"cathode:{name}"
            for kind, make in zip(CATHODE_KINDS, (_vacancy, _exchange), strict=True):
                key = f"{host}:{seed + k}:{kind}"
                atoms, defect, places = make(perfect, rng)
                yield DetectionCell(key, host, rattled(atoms, rattle, rng), kind, defect, places)
                yield DetectionCell(f"{key}:{PERFECT}", host, rattled(perfect, rattle, rng), PERFECT, "", ())


def _vacancy(perfect: "Atoms", rng: np.random.Generator) -> "tuple[Atoms, str, tuple[int, ...]]":
    (defect,) = random_vacancies(perfect, "Li", num=1, seed=int(rng.integers(2**31)), supercell=1)
    return defect.atoms, defect.manifest.defect, nearest(defect.atoms, perfect.positions[defect.manifest.sites[0]])


def _exchange(perfect: "Atoms", rng: np.random.Generator) -> "tuple[Atoms, str, tuple[int, ...]]":
    """A lithium and a metal, both drawn at random."""
    names = np.array(perfect.get_chemical_symbols())
    lithium = int(rng.choice(np.flatnonzero(names == "Li")))
    metal = int(rng.choice(np.flatnonzero(~np.isin(names, ["Li", "O", "P"]))))
    atoms = perfect.copy()
    atoms.symbols[[lithium, metal]] = names[[metal, lithium]]
    return atoms, f"{names[metal]}_Li+Li_{names[metal]}", (lithium, metal)
