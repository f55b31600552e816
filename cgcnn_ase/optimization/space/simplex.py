"""Shares that add up to one, as whole numbers of atoms: counted, numbered and drawn without any rejection."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

Part = tuple[int, int]  # how many atoms, and which label they have


@dataclass(frozen=True)
class Simplex:
    r"""Whole numbers within bounds whose sum is given; a part that is not zero may have one of several labels.

    All follows from one table, of how many ways there are to fill the parts from the i-th on with r atoms:

    .. math:: W_i(r) = \sum_{v = l_i}^{h_i} w_i(v) \, W_{i+1}(r - v), \qquad w_i(0) = 1, \; w_i(v > 0) = n_i

    Examples
    --------
    >>> simplex = Simplex(lows=(1, 0), highs=(2, 2), total=2, labels=(1, 3))
    >>> simplex.count
    4
    >>> [simplex[k] for k in range(4)]
    [((1, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 0), (1, 2)), ((2, 0), (0, 0))]
    """

    lows: tuple[int, ...]  # the bounds of each part, included
    highs: tuple[int, ...]
    total: int  # the sum
    labels: tuple[int, ...]  # the number of labels of each part; 1 where it has none to choose

    @property
    def count(self) -> int:
        """Number of arrangements."""
        return self._ways[0][self.total]

    def __getitem__(self, index: int) -> tuple[Part, ...]:
        """Return the parts with a number, 0 to `count` - 1, in lexical order."""
        if not 0 <= index < self.count:
            raise IndexError(f"number {index}: there are {self.count}")
        parts, left = [], self.total
        for i in range(len(self.lows)):
            part, index = self._pick(i, left, index)
            parts.append(part)
            left -= part[0]
        return tuple(parts)

    def from_unit(self, coordinates: Sequence[float]) -> tuple[Part, ...]:
        """Return the parts of a point of the unit cube; of uniform points all parts are equally frequent."""
        parts, left = [], self.total
        for i, u in enumerate(coordinates):
            ways = self._ways[i][left]
            part, _ = self._pick(i, left, min(int(u * ways), ways - 1))
            parts.append(part)
            left -= part[0]
        return tuple(parts)

    def nearest(self, amounts: Sequence[float]) -> tuple[int, ...]:
        """Return the whole numbers with the smallest sum of squared differences from amounts."""
        pairs = zip(self.lows, self.highs, strict=True)
        counts = [min(max(round(amount), low), high) for amount, (low, high) in zip(amounts, pairs, strict=True)]
        while (missing := self.total - sum(counts)) != 0:
            step = 1 if missing > 0 else -1
            bounds = self.highs if step > 0 else self.lows
            free = [i for i, count in enumerate(counts) if count != bounds[i]]
            cheapest = min(free, key=lambda i: (round(step * (counts[i] - amounts[i]), 9), i))
            counts[cheapest] += step
        return tuple(counts)

    def reachable(self) -> tuple[tuple[int, int], ...]:
        """Return the lowest and highest number that each part can have beside the others."""
        sum_low, sum_high = sum(self.lows), sum(self.highs)
        return tuple(
            (max(low, self.total - (sum_high - high)), min(high, self.total - (sum_low - low)))
            for low, high in zip(self.lows, self.highs, strict=True)
        )

    def _pick(self, i: int, left: int, index: int) -> tuple[Part, int]:
        """Return the i-th part in the arrangement with a number, and the number of the rest among their own."""
        for value, weight in self._values(i, left):
            rest = self._ways[i + 1][left - value]
            if index < weight * rest:
                return (value, index // rest), index % rest
            index -= weight * rest
        raise AssertionError("the table of ways is complete")

    def _values(self, i: int, left: int) -> Iterator[tuple[int, int]]:
        for value in range(self.lows[i], min(self.highs[i], left) + 1):
            yield value, self.labels[i] if value else 1

    @cached_property
    def _ways(self) -> list[list[int]]:
        table = [[0] * (self.total + 1) for _ in self.lows] + [[1] + [0] * self.total]
        for i in reversed(range(len(self.lows))):
            for left in range(self.total + 1):
                table[i][left] = sum(weight * table[i + 1][left - value] for value, weight in self._values(i, left))
        return table
