"""The time that the optimizer itself takes in each round: one ask and one tell over 10^4 candidates.

The candidates are those of a cathode space; the values a smooth function of composition with noise from the ordering.
For the stacked surrogate the network's predictions are taken as made (they are, once): random numbers stand for them.
"""

import time

import numpy as np
from _report import Table, finish, parser
from _structures import echo_stderr

from cgcnn_ase.optimization.engine import Optimizer
from cgcnn_ase.optimization.space.cathode_space import cathode_space
from cgcnn_ase.optimization.surrogates.base import Pool
from cgcnn_ase.optimization.surrogates.graph_network import GraphNetworkSurrogate, Stacked

RANGES = {
    "li_vacancy_ratio": [0, 1],
    "ni_content": [0, 1],
    "co_content": [0, 1],
    "mn_content": [0, 1],
}


def main() -> None:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--n", type=int, default=10_000, help="candidates")
    made.add_argument("--labels", type=int, nargs="*", default=[20, 100, 200, 500], help="known when asked")
    made.add_argument("--rounds", type=int, default=5, help="of each; the slowest counts")
    chosen = made.parse_args()
    table = Table(
        f"A round of the optimizer, {chosen.n:,} candidates",
        ["surrogate", "acquisition", "points a round", "labels", "s, slowest", "s, mean", "CPU s, mean", "to reach"],
        notes=[
            "ask and tell, with the surrogate fitted anew in each round",
            "CPU s: of this process; less than s where other processes share the cores",
        ],
    )
    # the first fit of a process imports scikit-optimize: seconds that are no part of a round
    warm = cathode_space(RANGES, supercell=1)
    measure(warm, warm.sample(50, 0), "gp", "ei", 1, 5, 1)
    space = cathode_space(RANGES | {"ordering_seed": 8}, supercell=(2, 2, 1))
    points = space.sample(chosen.n, 0)
    for surrogate, acquisition, batch in (
        ("gp", "ei", 1), ("gp", "thompson", 1), ("gp", "ei", 8), ("gp", "information", 8), ("stacked", "ei", 1),
        ("stacked", "ei", 8),
    ):  # fmt: skip
        for n_labels in chosen.labels:
            echo_stderr(f"{surrogate} {acquisition} {batch} points, {n_labels} labels")
            seconds, cpu = measure(space, points, surrogate, acquisition, batch, n_labels, chosen.rounds)
            figures = [max(seconds), float(np.mean(seconds)), float(np.mean(cpu))]
            table.rows.append([surrogate, acquisition, batch, n_labels, *figures, "≤ 1 s"])
    finish([table], chosen.output, vars(chosen))


def measure(space, points, surrogate, acquisition, batch, n_labels, rounds) -> tuple[list[float], list[float]]:
    """Seconds of each round, by the clock and of the CPU."""
    pool = Pool.of(space, points)
    learner = surrogate if surrogate == "gp" else Stacked(Predicted(pool, values(pool, seed=1)))
    optimizer = Optimizer(space, learner, acquisition, n_initial=0, candidates=points)
    known = values(pool, seed=0)
    optimizer.tell(points[:n_labels], known[:n_labels])
    seconds, cpu = [], []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        asked = optimizer.ask(batch)
        optimizer.tell(asked, [known[pool.index[space.key(point)]] for point in asked])
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return seconds, cpu


def values(pool: Pool, *, seed: int) -> np.ndarray:
    """A smooth function of the features and noise."""
    x = pool.features
    smooth = np.sin(5 * x[:, 0]) - 1.2 * x[:, -2] * x[:, -1]
    return smooth + 0.1 * np.random.default_rng(seed).standard_normal(len(x))


class Predicted(GraphNetworkSurrogate):
    """A network that has predicted all candidates."""

    def __init__(self, pool: Pool, mean: np.ndarray) -> None:
        self.offset = 0.0
        self._known = {key: (value, 0.2) for key, value in zip(pool.keys, mean.tolist(), strict=True)}


if __name__ == "__main__":
    main()
