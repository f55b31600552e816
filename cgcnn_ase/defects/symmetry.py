"""Equivalent sites, and groups of sites, of a host."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.defects.host import Host
from cgcnn_ase.structures.symmetry import orbits, symmetry_dataset

# a site of the infinite crystal: what is done there, site of the host, and cell
Member = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Symmetry:
    """Space group operations of a host and what they do to its sites."""

    orbit: Ints  # (N,) index of the first site equivalent to each in the crystal
    wyckoff: tuple[str, ...]  # Wyckoff letter of each site
    # rotations, translations: (M, 3, 3) and (M, 3), on fractional coordinates; centring translations are among them.
    # Those of the host's cell: fewer than those of the crystal where the shape of a supercell breaks its symmetry
    rotations: Ints
    translations: Floats
    frac: Floats  # (N, 3) the sites

    @cached_property
    def multiplicity(self) -> Ints:
        """(N,) number of sites equivalent to each, itself among them."""
        return np.bincount(self.orbit, minlength=len(self.orbit))[self.orbit]

    def representatives(self) -> list[int]:
        """The first site of each orbit."""
        return [int(site) for site in np.unique(self.orbit)]

    @cached_property
    def site_images(self) -> tuple[Ints, Ints]:
        """Images of the sites under each operation: (M, N) sites, (M, N, 3) cells; two on one are a `ValueError`."""
        moved = np.einsum("mij,nj->mni", self.rotations, self.frac) + self.translations[:, None]
        sites = np.empty(moved.shape[:2], dtype=np.int64)
        cells = np.empty(moved.shape, dtype=np.int64)
        for m, places in enumerate(moved):
            delta = places[:, None] - self.frac[None]
            whole = np.rint(delta)
            best = np.abs(delta - whole).max(axis=2).argmin(axis=1)
            rows = np.arange(len(best))
            if len(np.unique(best)) != len(best):
                raise ValueError("a symmetry operation takes two sites to one; the structure is too distorted")
            sites[m], cells[m] = best, whole[rows, best].astype(np.int64)
        return sites, cells

    def group_images(self, members: Iterable[Member]) -> set[tuple[Member, ...]]:
        """The groups of sites, by `translated` names, that symmetry makes equal to one: as many as in a cell."""
        group = list(members)
        sites = np.array([member[1] for member in group])
        shift = np.array([member[2:] for member in group])
        images, cells = self.site_images
        moved = cells[:, sites] + np.einsum("mij,nj->mni", self.rotations, shift)
        return {
            translated([(member[0], s, *t) for member, s, t in zip(group, row, places, strict=True)])
            for row, places in zip(images[:, sites].tolist(), moved.tolist(), strict=True)
        }


def translated(members: Iterable[Member]) -> tuple[Member, ...]:
    """The group of sites moved by whole cells so that its name does not depend on where it lies."""
    group = list(members)
    result = []
    for _, _, a, b, c in group:
        result.append(tuple(sorted((label, site, x - a, y - b, z - c) for label, site, x, y, z in group)))
    return min(result)


def find_symmetry(host: Host) -> Symmetry:
    """The symmetry of a host, by spglib; a `ValueError` if there is none."""
    try:
        data = symmetry_dataset(host.cell, host.frac, host.atoms.numbers)
    except ValueError as error:
        raise ValueError(f"{host.name}: {error}") from error
    return Symmetry(
        orbit=orbits(data),
        wyckoff=tuple(data.wyckoffs),
        rotations=np.asarray(data.rotations, dtype=np.int64),
        translations=np.asarray(data.translations, dtype=np.float64),
        frac=host.frac,
    )
