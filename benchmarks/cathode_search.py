"""Evaluations to find one of the best 1 % of a cathode space, with CHGNet (a potential, not DFT) as the oracle.

    python benchmarks/cathode_search.py --output docs/data/cathode_search.json --picture docs/images/cathode_search.png

All candidates are labelled once (unrelaxed cells of 48 atoms and fewer; kept in --labels), so that any search can be
played again. Against the optimizer (Gaussian process, expected improvement) stand random search and a grid: the
smallest grid over the shares and the lithium removed that holds one of the best.
"""

import json
from pathlib import Path

import numpy as np
from _report import Table, machine, parser
from _structures import echo_stderr
from optimizer_search import RANGES

from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.energies.interface import CHGNetEnergy
from cgcnn_ase.optimization.engine import Optimizer
from cgcnn_ase.optimization.objectives import OWN_CELL, EvaluatedCell, Objective
from cgcnn_ase.optimization.oracles import Evaluation
from cgcnn_ase.optimization.space.cathode_space import cathode_space, cathode_structure
from cgcnn_ase.optimization.space.search_space import SearchSpace, initial_points

METALS = ("ni_content", "co_content", "mn_content")
OBJECTIVES = {
    "formation energy": Objective("formation_energy_per_atom"),
    "mixing energy": Objective("mixing_energy_per_atom", mixed=METALS),
    "voltage": Objective("voltage", "max"),
}
#: cells labelled before they are saved
_AT_ONCE = 40
#: sizes of grids that are tried
_GRIDS = range(1, 400)


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "", data=False)
    made.add_argument("--labels", type=Path, default=Path("runs") / "cathode_chgnet.json", help="energies, kept here")
    made.add_argument("--seeds", type=int, default=10)
    made.add_argument("--most", type=int, default=120, help="evaluations of a search at most")
    made.add_argument("--picture", type=Path, metavar="FILE.png")
    chosen = made.parse_args()
    space = cathode_space(RANGES)
    energies = labelled(space, chosen.labels)
    result = {}
    for name, objective in OBJECTIVES.items():
        values = values_of(objective, space, energies)
        points = [point for point in space.candidates() if space.key(point) in values]
        result[name] = compare(space, points, values, objective.goal, chosen.seeds, chosen.most)
        echo_stderr(f"{name}: {result[name]['optimizer']}")
        if chosen.output is not None:
            settings = {"seeds": chosen.seeds, "most": chosen.most, "ranges": RANGES}
            content = {"machine": machine(), "settings": settings, "points": result}
            chosen.output.write_text(json.dumps(content) + "\n")
    print(f"_{machine()}_\n\n{table(result, chosen.seeds).markdown()}")
    if chosen.picture is not None:
        draw(result, chosen.picture)


def labelled(space: SearchSpace, file: Path) -> dict[str, float]:
    """Energy of each candidate's cell, eV; goes on where it was stopped."""
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    missing = [point for point in space.candidates() if space.key(point) not in known]
    if missing:
        model = CHGNetEnergy()
        file.parent.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(missing), _AT_ONCE):
        part = missing[first : first + _AT_ONCE]
        cells = [cathode_structure(point) for point in part]
        for point, energy in zip(part, model.energies(cells).energies.tolist(), strict=True):
            known[space.key(point)] = energy
        file.write_text(json.dumps(known))
        echo_stderr(f"{first + len(part)} of {len(missing)} labelled")
    return known


def values_of(objective: Objective, space: SearchSpace, energies: dict[str, float]) -> dict[str, float]:
    """The objective of each point, as an optimisation computes it; without an entry where it means nothing there."""
    cells: dict[str, EvaluatedCell] = {}
    for point in space.candidates():
        evaluation = Evaluation({"energy": energies[space.key(point)]})
        cells[space.key(point)] = EvaluatedCell(point, cathode_structure(point), evaluation)
    result = {}
    for point in space.candidates():
        needs = {name: cells[space.key(cell)] for name, cell in objective.needs(point).items()}
        if len(needs) > 1 and any(cell is cells[space.key(point)] for name, cell in needs.items() if name != OWN_CELL):
            continue  # an end member itself, or all the lithium
        result[space.key(point)] = objective.value(needs, reference_energies()).value
    return result


# Searches


def compare(space: SearchSpace, points: list, values: dict[str, float], goal: str, seeds: int, most: int) -> dict:
    """How many evaluations each search needs, and what it has found after each."""
    sign = 1.0 if goal == "min" else -1.0
    costs = {key: sign * value for key, value in values.items()}
    n_best = len(costs) // 100
    limit = sorted(costs.values())[n_best - 1]
    needed, courses, drawn = [], [], []
    for seed in range(seeds):
        optimizer = Optimizer(space, goals=[goal], seed=seed, candidates=points)
        course: list[float] = []
        while len(course) < most:
            (point,) = optimizer.ask()
            optimizer.tell([point], [values[space.key(point)]])
            course.append(costs[space.key(point)])
        needed.append(first(course, limit, most))
        courses.append((sign * np.minimum.accumulate(course)).round(4).tolist())
        order = np.random.default_rng([seed, 7]).permutation(len(points))
        by_chance = [costs[space.key(points[i])] for i in order]
        drawn.append((sign * np.minimum.accumulate(by_chance[:most])).round(4).tolist())
    return {
        "goal": goal, "candidates": len(points), "best": n_best, "limit": sign * limit, "optimizer": needed,
        "random": (len(points) + 1) / (n_best + 1), "grid": grid(space, costs, limit), "courses": courses,
        "drawn": drawn, "optimum": sign * min(costs.values()),
    }  # fmt: skip


def first(course: list[float], limit: float, most: int) -> int:
    """The evaluation that finds one of the best; one more than there were if none does."""
    return next((k + 1 for k, cost in enumerate(course) if cost <= limit), most + 1)


def grid(space: SearchSpace, costs: dict[str, float], limit: float) -> int | None:
    """Points of the smallest grid that holds one of the best; None if none that is tried does."""
    for n in _GRIDS:
        keys = {space.key(point) for point in initial_points(space, n, kind="grid", seed=0)}
        if any(costs.get(key, np.inf) <= limit for key in keys):
            return len(keys)
    return None


def table(result: dict, seeds: int) -> Table:
    """Evaluations to the first of the best 1 %."""
    made = Table(
        f"evaluations to find one of the best 1 %, mean ± standard error of {seeds} seeds",
        ["objective", "goal", "candidates", "optimizer", "most", "random search", "share of random", "smallest grid"],
        notes=["oracle: CHGNet, a machine-learned potential, not DFT; random search: (N + 1) / (n + 1), exact"],
    )
    for name, point in result.items():
        needed = np.array(point["optimizer"])
        spread = f"{needed.mean():.1f} ± {needed.std(ddof=1) / np.sqrt(len(needed)):.1f}"
        share = f"{needed.mean() / point['random']:.0%}"
        row = [name, point["goal"], point["candidates"], spread, int(needed.max()), point["random"], share]
        made.rows.append([*row, point["grid"]])
    return made


def draw(result: dict, file: Path) -> None:
    """Best value so far against evaluations, with the range of the seeds."""
    from cgcnn_ase.plotting.model_plots import BLUE, GREY, ORANGE, new_figure, save

    units = {"formation energy": "eV/atom", "mixing energy": "eV/atom", "voltage": "V"}
    figure, panels = new_figure(len(result))
    for axes, (name, point) in zip(panels, result.items(), strict=True):
        for key, color, label in (("drawn", GREY, "random"), ("courses", BLUE, "optimizer")):
            courses = np.array(point[key])
            x = np.arange(1, courses.shape[1] + 1)
            axes.fill_between(x, courses.min(axis=0), courses.max(axis=0), color=color, alpha=0.2, linewidth=0)
            axes.plot(x, courses.mean(axis=0), color=color, label=label)
        axes.axhline(point["limit"], color=ORANGE, linestyle="--", linewidth=1, label="best 1 %")
        axes.set_xlabel("evaluations")
        axes.set_ylabel(f"best {name} so far ({units[name]})")
        axes.legend(frameon=False, fontsize=10)
    figure.suptitle("oracle: CHGNet, a potential, not DFT", fontsize=11)
    save(figure, file)


if __name__ == "__main__":
    main()
