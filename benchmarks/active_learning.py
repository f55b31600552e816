"""Labels that active learning needs for the error that random choice reaches with all of them.

    python benchmarks/active_learning.py --output docs/data/active_learning.json \\
        --picture docs/images/active_learning.png

Pools are the vacancies of the train splits of two published sets; the error is that on the vacancies of the test split,
whose formulas are in no pool. What learns is a Gaussian process on the vectors that the pretrained formation-energy
model, which has seen no vacancy, gives the sites of the pristine cells. Each seed draws the same first 20 labels for
both; then each takes 10 a round, at random or by `PoolLearner.ask`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from _report import Table, machine, parser
from _structures import echo_stderr, require
from ase import Atoms

from cgcnn_ase.data.site_labels import SiteSet
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.optimization.surrogates.pool_learner import PoolLearner, site_vectors
from cgcnn_ase.zoo.defect_data import published_vacancies

FIRST, ROUND, LAST = 20, 10, 200


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "")
    made.add_argument("--seeds", type=int, default=10)
    made.add_argument("--split", default="test", help="whose error is measured; val to choose settings by")
    made.add_argument("--picture", type=Path, metavar="FILE.png")
    chosen = made.parse_args()
    require(chosen.data.parent, "oxide_vacancies_witman", "oxide_O_vacancies_kumagai")
    model = load_model("formation-energy-per-atom")
    result: dict[str, Any] = {}
    for site_set in published_vacancies(chosen.data.parent):
        vectors, labels, split = sites_of(site_set, model)
        pool, held = split == "train", split == chosen.split
        point: dict[str, Any] = {"pool": int(pool.sum()), "test": int(held.sum()), "random": [], "active": []}
        for seed in range(chosen.seeds):
            for how in ("random", "active"):
                point[how].append(learned(vectors[pool], labels[pool], vectors[held], labels[held], how, seed))
            echo_stderr(f"{site_set.name}, seed {seed}: {point['random'][-1][-1]:.3f} {point['active'][-1][-1]:.3f} eV")
        result[site_set.name] = point
    if chosen.output is not None:
        content = {"machine": machine(), "settings": {"seeds": chosen.seeds, "split": chosen.split}, "points": result}
        chosen.output.write_text(json.dumps(content, indent=1) + "\n")
    print(f"_{machine()}_\n\n{table(result, chosen.seeds).markdown()}")
    if chosen.picture is not None:
        draw(result, chosen.picture)


def sites_of(site_set: SiteSet, model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, labels (eV) and splits of the labelled sites of a set."""
    cells = [Atoms(h.structure.numbers, h.structure.positions, cell=h.structure.cell, pbc=True) for h in site_set.hosts]
    vectors = np.concatenate(site_vectors(model, cells))
    labels = np.concatenate([host.labels for host in site_set.hosts])
    split = np.concatenate([np.full(len(host.labels), host.split) for host in site_set.hosts])
    known = np.isfinite(labels)
    return vectors[known], labels[known], split[known]


def learned(
    pool: np.ndarray, labels: np.ndarray, held: np.ndarray, truth: np.ndarray, how: str, seed: int
) -> list[float]:
    """Held-out MAE (eV) after the first labels and after each round."""
    learner = PoolLearner(pool, seed=seed)
    order = np.random.default_rng(seed).permutation(len(pool))
    rows, errors = order[:FIRST], []
    while True:
        learner.tell(rows, labels[rows])
        errors.append(float(np.abs(learner.predict(held)[0] - truth).mean()))
        n = len(learner.labelled)
        if n >= LAST:
            return errors
        rows = order[n : n + ROUND] if how == "random" else learner.ask(ROUND)


def needed(active: list[float], goal: float) -> int:
    """Labels at which the error first is not above a goal; more than there were if it never is."""
    return next((FIRST + k * ROUND for k, error in enumerate(active) if error <= goal), LAST + ROUND)


def interval(values: list[int], rng: np.random.Generator) -> tuple[float, float]:
    """95 % of the bootstrapped means."""
    draws = rng.choice(values, (4000, len(values))).mean(axis=1)
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def table(result: dict[str, Any], seeds: int) -> Table:
    """How many labels it takes."""
    made = Table(
        f"labels for the error of random choice with {LAST}, {seeds} seeds",
        ["vacancies", "pool", "test", f"random, {LAST}", f"active, {LAST}", "labels needed", "of random's", "interval"],
        notes=[
            "held-out MAE in eV, mean ± standard deviation; needed: for the mean error of random choice, mean over the "
            f"seeds ({LAST + ROUND} where it is never reached); interval: 95 %, bootstrap over the seeds"
        ],
    )
    for name, point in result.items():
        random, active = (np.array(point[how])[:, -1] for how in ("random", "active"))
        labels = [needed(course, float(random.mean())) for course in point["active"]]
        low, high = interval(labels, np.random.default_rng(0))
        spread = [f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" for values in (random, active)]
        share = f"{np.mean(labels) / LAST:.0%}"
        made.rows.append(
            [
                name,
                point["pool"],
                point["test"],
                *spread,
                float(np.mean(labels)),
                share,
                f"{low / LAST:.0%} to {high / LAST:.0%}",
            ]
        )
    return made


def draw(result: dict[str, Any], file: Path) -> None:
    """Error against labels, with the standard deviation of the seeds."""
    from cgcnn_ase.plotting.model_plots import BLUE, GREY, new_figure, save

    figure, panels = new_figure(len(result))
    for axes, (name, point) in zip(panels, result.items(), strict=True):
        for how, color in (("random", GREY), ("active", BLUE)):
            courses = np.array(point[how])
            x = FIRST + ROUND * np.arange(courses.shape[1])
            mean, std = courses.mean(axis=0), courses.std(axis=0, ddof=1)
            axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
            axes.plot(x, mean, color=color, label=how)
        axes.set_xlabel("labels")
        axes.set_ylabel("held-out MAE (eV)")
        axes.set_title(f"vacancies, {name}: pool of {point['pool']:,}")
        axes.legend(frameon=False, fontsize=11)
    save(figure, file)


if __name__ == "__main__":
    main()
