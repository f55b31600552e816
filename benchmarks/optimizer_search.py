"""How many evaluations the optimizer needs to find one of the best 1 % of a cathode space, against random search.

The landscapes are made up: smooth functions of the shares of Ni, Co, Mn and of the lithium removed, with a standard
deviation of 1, and to each structure a number of its own, as its ordering would give, with a fixed standard deviation.
Random search needs (N + 1) / (n + 1) evaluations in the mean to draw the first of the n best of N.
"""

from collections.abc import Callable

import numpy as np
from _report import Table, finish, parser
from _structures import echo_stderr

from cgcnn_ase.optimization.acquisition import ACQUISITIONS
from cgcnn_ase.optimization.engine import Optimizer
from cgcnn_ase.optimization.space.cathode_space import cathode_space
from cgcnn_ase.optimization.space.search_space import SearchSpace

RANGES = {
    "li_vacancy_ratio": [0, 0.75],
    "ni_content": [0, 1],
    "co_content": [0, 1],
    "mn_content": [0, 1],
    "ordering_seed": 3,
}
Floats = np.ndarray
#: of the shares of Ni, Co, Mn, and of the lithium removed
LANDSCAPES: dict[str, Callable[..., Floats]] = {
    "linear": lambda ni, co, mn, li: -ni + 0.5 * co + 0.8 * li,
    "mixing": lambda ni, co, mn, li: -1.2 * ni * mn - 0.4 * co * ni + 0.3 * co + 0.9 * (li - 0.35) ** 2 - 0.5 * li * mn,
    "wavy": lambda ni, co, mn, li: (
        np.sin(5 * ni + 1) * np.cos(4 * li) + 0.5 * co - 0.8 * mn * li + 0.3 * np.cos(9 * co)
    ),
    "bowl": lambda ni, co, mn, li: (ni - 0.62) ** 2 + 1.5 * (co - 0.2) ** 2 + 0.8 * (li - 0.3) ** 2,
}


def main() -> None:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--acquisition", nargs="*", default=["ei"], choices=ACQUISITIONS.names())
    made.add_argument("--noise", type=float, nargs="*", default=[0.1, 0.3], help="of the ordering")
    made.add_argument("--seeds", type=int, default=10)
    made.add_argument("--batch", type=int, default=1, help="points a round")
    made.add_argument("--most", type=int, default=150, help="evaluations at most")
    chosen = made.parse_args()
    space = cathode_space(RANGES)
    table = Table(
        f"Evaluations to find one of the best 1 % of {len(space):,} candidates, mean of {chosen.seeds} seeds",
        ["landscape", "noise", "acquisition", "evaluations", "standard error", "most", "random search", "to reach"],
        notes=[f"{chosen.batch} a round; a search that found none counts {chosen.most}"],
    )
    for landscape in LANDSCAPES:
        for noise in chosen.noise:
            values = made_up(space, landscape, noise)
            n_best = len(values) // 100
            random = (len(values) + 1) / (n_best + 1)
            for acquisition in chosen.acquisition:
                echo_stderr(f"{landscape} {noise} {acquisition}")
                needed = [search(space, values, acquisition, seed, chosen) for seed in range(chosen.seeds)]
                error = float(np.std(needed, ddof=1) / np.sqrt(len(needed))) if len(needed) > 1 else None
                mean = float(np.mean(needed))
                table.rows.append(
                    [landscape, noise, acquisition, mean, error, max(needed), random, f"≤ {random / 3:.0f}"]
                )
    finish([table], chosen.output, vars(chosen))


def made_up(space: SearchSpace, landscape: str, noise: float) -> dict[str, float]:
    """The value of each point."""
    points = space.candidates()
    names = ("ni_content", "co_content", "mn_content", "li_vacancy_ratio")
    smooth = LANDSCAPES[landscape](*np.array([[point[name] for name in names] for point in points]).T)
    values = (smooth - smooth.mean()) / smooth.std() + noise * np.random.default_rng(99).standard_normal(len(points))
    return {space.key(point): float(value) for point, value in zip(points, values, strict=True)}


def search(space: SearchSpace, values: dict[str, float], acquisition: str, seed: int, chosen) -> int:
    """After how many evaluations one of the best is found."""
    best = sorted(values.values())[len(values) // 100 - 1]
    optimizer, n = Optimizer(space, acquisition=acquisition, seed=seed), 0
    while n < chosen.most:
        points = optimizer.ask(chosen.batch)
        told = [values[space.key(point)] for point in points]
        for value in told:
            n += 1
            if value <= best:
                return n
        optimizer.tell(points, told)
    return chosen.most


if __name__ == "__main__":
    main()
