"""Domain by geometry: contacts and volumes that no training structure has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Floats, Floats32, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, atomic_radii, electronegativity_scale, symbols
from cgcnn_ase.uncertainty.contacts import StructureGeometry, VolumeModel, elements_of_pair

_N = MAX_NUMBER + 1
# percentiles of the held-out structures that limit contacts, and volumes on either side
PERCENTILE, VOLUME_PERCENTILE = 99.5, 99.75
# limits that few held-out structures may not undercut: of a contact, relative; of log volume below and above. Those of
# 2,181 crystals of the Materials Project, the training set being 29,326, are 0.062, 0.281 and 0.336
MIN_CONTACT_LIMIT, MIN_VOLUME_LIMITS = 0.05, (0.28, 0.33)
# a pair of elements in so many training structures counts half by its own shortest distance, half by radii
_HALF_KNOWN = 10
# ridge of the radii's fit towards scaled atomic radii, in pairs
_RADII_RIDGE = 1.0
# of training structures with atoms without any neighbour, from which on such atoms are known
_KNOWN_SHARE = 0.005


class GeometrySignals(NamedTuple):
    """How far n structures (or sites) are from usual contacts and volumes."""

    contact: (
        Floats  # (n,) 1 - d / d_known of the relatively shortest contact; negative: longer than all known; -1: none
    )
    pair: Ints  # (n,) elements of that contact; -1: there is none
    distance: Floats  # (n,) its length, Å
    volume: Floats  # (n,) log of volume per atom less that usual for the composition; NaN where not known


@dataclass(frozen=True, eq=False, kw_only=True)
class GeometryDomain:
    r"""Shortest contact of each pair of elements, and usual volumes, of a training set.

    A contact is compared with :math:`d_{ab} = w\,d^{\min}_{ab} + (1-w)(r_a + r_b)`, :math:`w = n/(n+10)`: the shortest
    distance of the n training structures that have the pair, shrunk towards radii that are fitted to all pairs. The
    signal is :math:`1 - d/d_{ab}`. The volume per atom is compared with :class:`VolumeModel`. Limits are percentiles
    of a held-out calibration set.
    """

    pairs: Ints  # (P,) pairs of elements in training, a * 101 + b, increasing
    shortest: Floats32  # (P,) Å
    counts: Ints  # (P,) training structures that have the pair
    radii: Floats32  # (101,) Å
    volume: VolumeModel | None  # None where no training structure is periodic in all directions
    knows_isolated: bool  # whether atoms without a neighbour are usual
    knows_open: bool  # whether structures that are not periodic in all directions are usual
    contact_limit: float = np.inf
    volume_limits: tuple[float, float] = (np.inf, np.inf)  # below and above, both positive

    @classmethod
    def fit(
        cls,
        training: StructureGeometry,
        training_composition: npt.ArrayLike,
        held_out: StructureGeometry,
        composition: npt.ArrayLike,
    ) -> "GeometryDomain":
        """Learn contacts and volumes from training structures, the limits from held-out ones.

        ``training_composition`` (m, 101) and ``composition`` (n, 101) are atomic fractions. ValueError if no training
        structure has a contact.
        """
        if not training.pair.size:
            raise ValueError("no training structure has two atoms near each other: nothing is known of contacts")
        pairs, where, counts = np.unique(training.pair, return_inverse=True, return_counts=True)
        shortest = np.full(pairs.size, np.inf)
        np.minimum.at(shortest, where, training.shortest)
        periodic = np.isfinite(training.log_volume)
        x = np.asarray(training_composition, dtype=np.float64)
        domain = cls(
            pairs=pairs,
            shortest=shortest.astype(np.float32),
            counts=counts,
            radii=_fitted_radii(pairs, shortest, counts),
            volume=VolumeModel.fit(x[periodic], training.log_volume[periodic]) if periodic.any() else None,
            knows_isolated=bool((training.n_isolated > 0).mean() > _KNOWN_SHARE),
            knows_open=bool((~periodic).mean() > _KNOWN_SHARE),
        )
        signals = domain.signals(held_out, composition)
        volumes = signals.volume[np.isfinite(signals.volume)]
        below, above = (
            max(float(np.percentile(side, VOLUME_PERCENTILE)), least) if volumes.size else np.inf
            for side, least in zip((-volumes, volumes), MIN_VOLUME_LIMITS, strict=True)
        )
        contact = max(float(np.percentile(signals.contact, PERCENTILE)), MIN_CONTACT_LIMIT)
        return replace(domain, contact_limit=contact, volume_limits=(below, above))

    def signals(self, geometry: StructureGeometry, composition: npt.ArrayLike) -> GeometrySignals:
        """Contacts and volumes of n structures (or sites) of these atomic fractions, (n, 101)."""
        n = geometry.n_isolated.size
        short = 1.0 - geometry.shortest / self._known(geometry.pair)
        order = np.lexsort((-short, geometry.owner))
        owner = geometry.owner[order]
        first = order[np.flatnonzero(np.diff(owner, prepend=-1))]
        contact, pair, distance = np.full(n, -1.0), np.full(n, -1), np.full(n, np.nan)
        contact[geometry.owner[first]] = np.maximum(short[first], -1.0)
        pair[geometry.owner[first]] = geometry.pair[first]
        distance[geometry.owner[first]] = geometry.shortest[first]
        volume = np.full(n, np.nan) if self.volume is None else geometry.log_volume - self.volume.predict(composition)
        return GeometrySignals(contact, pair, distance, volume)

    def scores(self, signals: GeometrySignals, geometry: StructureGeometry) -> Floats:
        """The largest signal over its limit of each structure, (n,): 1 at the limit, 0 where all is usual."""
        below, above = self.volume_limits
        volume = np.nan_to_num(np.maximum(signals.volume / above, -signals.volume / below))
        scores = np.maximum.reduce([signals.contact / self.contact_limit, volume, np.zeros(volume.size)])
        if not self.knows_isolated:
            scores = np.where(geometry.n_isolated > 0, np.maximum(scores, 1.0 + geometry.n_isolated), scores)
        if not self.knows_open and self.volume is not None:
            scores = np.where(np.isnan(geometry.log_volume), np.maximum(scores, 2.0), scores)
        return np.asarray(scores)

    def reasons(self, k: int, signals: GeometrySignals, geometry: StructureGeometry) -> list[str]:
        """Sentences on what of structure k no training structure has; none where it is usual."""
        reasons = []
        if geometry.n_isolated[k] and not self.knows_isolated:
            n = int(geometry.n_isolated[k])
            reasons.append(f"{n} {'atom has' if n == 1 else 'atoms have'} no neighbour within the cutoff")
        if signals.contact[k] > self.contact_limit:
            reasons.append(self._contact_reason(int(signals.pair[k]), float(signals.distance[k])))
        deviation = float(signals.volume[k])
        if np.isnan(deviation):
            if self.volume is not None and not self.knows_open:
                reasons.append("is not periodic in all three directions, as the training structures are")
        elif deviation > self.volume_limits[1] or -deviation > self.volume_limits[0]:
            volume = float(np.exp(geometry.log_volume[k]))
            usual = _digits(volume / np.exp(deviation))
            limit = self.volume_limits[1] if deviation > 0 else -self.volume_limits[0]
            reasons.append(
                f"volume {_digits(volume)} Å³/atom is {np.exp(deviation):.3g} times the {usual} that is usual for the "
                f"composition; the limit is {np.exp(limit):.2f} times"
            )
        return reasons

    def _contact_reason(self, pair: int, distance: float) -> str:
        # the more electropositive first, as in formulas
        a, b = (symbols()[z] for z in sorted(elements_of_pair(pair), key=lambda z: electronegativity_scale()[z]))
        index = np.flatnonzero(self.pairs == pair)
        if index.size and self.shortest[index[0]] > distance:
            n = int(self.counts[index[0]])
            among = "" if n > _HALF_KNOWN else f" (of {n} {'structure' if n == 1 else 'structures'})"
            return f"{a}-{b} {distance:.2f} Å; the closest in training is {self.shortest[index[0]]:.2f} Å{among}"
        expected = float(self._known(np.array([pair]))[0])
        why = "which is in few training structures" if index.size else "which no training structure has"
        return f"{a}-{b} {distance:.2f} Å, {why}; about {expected:.2f} Å or more is usual"

    def _known(self, pair: Ints) -> Floats:
        """Distances that pairs of elements usually keep, Å."""
        a, b = elements_of_pair(pair)
        by_radii = self.radii[a].astype(np.float64) + self.radii[b]
        index = np.minimum(np.searchsorted(self.pairs, pair), self.pairs.size - 1)
        seen = np.where(self.pairs[index] == pair, self.counts[index], 0)
        weight = seen / (seen + _HALF_KNOWN)
        return np.asarray(weight * self.shortest[index] + (1 - weight) * by_radii)

    def arrays(self) -> dict[str, AnyArray]:
        """The domain as named arrays, ready for a safetensors file."""
        limits = np.array([self.contact_limit, *self.volume_limits], dtype=np.float64)
        volume = {} if self.volume is None else self.volume.arrays()
        return {
            "pairs": self.pairs.astype(np.int32),
            "shortest": self.shortest,
            "counts": self.counts.astype(np.int32),
            "radii": self.radii,
            "limits": limits,
            "knows": np.array([self.knows_isolated, self.knows_open], dtype=np.int32),
            **{f"volume.{name}": array for name, array in volume.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "GeometryDomain | None":
        """The inverse of :meth:`arrays`; None where they are those of a model without it."""
        if "pairs" not in arrays:
            return None
        missing = {"shortest", "counts", "radii", "limits", "knows"} - set(arrays)
        if missing:
            raise ValueError(f"the domain by geometry lacks {', '.join(sorted(missing))}")
        contact, below, above = np.asarray(arrays["limits"], dtype=np.float64).tolist()
        isolated, opened = np.asarray(arrays["knows"]).astype(bool).tolist()
        volume = {name.removeprefix("volume."): array for name, array in arrays.items() if name.startswith("volume.")}
        return cls(
            pairs=np.asarray(arrays["pairs"]).astype(np.int64),
            shortest=np.asarray(arrays["shortest"], dtype=np.float32),
            counts=np.asarray(arrays["counts"]).astype(np.int64),
            radii=np.asarray(arrays["radii"], dtype=np.float32),
            volume=VolumeModel.from_arrays(volume) if volume else None,
            knows_isolated=isolated,
            knows_open=opened,
            contact_limit=contact,
            volume_limits=(below, above),
        )


def _fitted_radii(pairs: Ints, shortest: Floats, counts: Ints) -> Floats32:
    """Radii whose sums are the shortest distances, pulled towards scaled atomic radii (101,)."""
    table = np.nan_to_num(atomic_radii(), nan=float(np.nanmean(atomic_radii())))
    a, b = elements_of_pair(pairs)
    weight = counts / (counts + _HALF_KNOWN)
    sums = table[a] + table[b]
    prior = table * (np.sum(weight * shortest * sums) / np.sum(weight * sums**2))
    design = np.zeros((pairs.size, _N))
    np.add.at(design, (np.arange(pairs.size), a), 1.0)
    np.add.at(design, (np.arange(pairs.size), b), 1.0)
    normal = design.T @ (design * weight[:, None]) + _RADII_RIDGE * np.eye(_N)
    radii = prior + np.linalg.solve(normal, design.T @ (weight * (shortest - prior[a] - prior[b])))
    return np.asarray(radii, dtype=np.float32)


def _digits(volume: float) -> str:
    return f"{volume:.1f}" if volume < 1000 else f"{volume:.3g}"
