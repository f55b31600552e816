"""Vacancy formation energies of hosts not seen: the pretrained model of sites against forests on the composition.

DATA holds the published sets (oxide_vacancies_witman, oxide_O_vacancies_kumagai). The forests are fitted here on the
same training hosts.

    python benchmarks/vacancies.py --data DATA              # errors on the test hosts
    python benchmarks/vacancies.py --data DATA --ranking    # p_cheapest on the validation hosts of these and of JARVIS

With --ranking, the sites of each validation host with two or more are ranked as a screening does, and the probability
of each to be the cheapest is compared with which one is. No member was trained on these hosts, but the calibrator's
few numbers were fitted to them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _report import Table, finish, parser
from _structures import data_root, echo_stderr, require
from sklearn.ensemble import RandomForestRegressor

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.site_labels import LabelledHost, SiteSet, prepare_sites, with_splits, without_held_out
from cgcnn_ase.energies.interface import SHRINKAGE, Energies
from cgcnn_ase.models.registry import load_model, with_fidelity
from cgcnn_ase.prediction.evaluation import RegressionEvaluation, evaluate_model
from cgcnn_ase.zoo.defect_data import jarvis_vacancies, published_vacancies

MODEL = "vacancy-formation-energy"
FIGURES = {"witman": "≤ 0.60", "kumagai": "≤ 0.30"}
#: columns of the host in Kumagai's table that a user without DFT does not have
_CALCULATED = ["band_gap", "formation_energy"]

#: probabilities that are counted together, and shrinkages that are compared
BINS = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
SHRINKAGES = (0.0, 0.1, 0.25, SHRINKAGE, 0.75, 1.0)
#: least probability of the cheapest in the logarithm: what 10,000 draws cannot tell from none
MIN_PROBABILITY = 1e-4

Floats = npt.NDArray[np.float64]


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--ranking", action="store_true", help="p_cheapest on the validation hosts, and nothing else")
    chosen = made.parse_args()
    root = data_root(chosen.data) if chosen.data.is_dir() else chosen.data.parent
    require(root, "oxide_vacancies_witman", "oxide_O_vacancies_kumagai")
    if chosen.ranking:
        require(root, "jarvis_vacancydb")
        finish(ranking_tables(rankings(root)), chosen.output, vars(chosen))
        return
    table = Table(
        "Vacancies in hosts that were not seen (test split), eV",
        ["set", "estimate", "hosts", "vacancies", "MAE", "RMSE", "median error", "90 % interval covers", "to reach"],
        notes=[
            "one member: the mean of the members' MAE",
            "forest: 300 trees, seed 0, on atomic fractions and element",
        ],
    )
    elements = Table("By element", ["set", "element", "vacancies", "MAE (eV)"])
    for each in published_vacancies(root):
        echo_stderr(each.name)
        result = evaluation(each)
        table.rows += rows(each, result)
        table.rows += [forest_row(each, {}, "forest")]
        if each.name == "kumagai":
            extra = calculated(root / "oxide_O_vacancies_kumagai" / "vacancies.csv.gz")
            table.rows.append(forest_row(each, extra, "forest, with gap and formation energy of the host by DFT"))
        elements.rows += by_element(each, result)
    finish([table, elements], chosen.output, vars(chosen))


def of_split(each: SiteSet, split: str) -> list[LabelledHost]:
    return [host for host in each.hosts if host.split == split]


def evaluation(each: SiteSet, split: str = "test") -> RegressionEvaluation:
    """The pretrained model on the hosts of a split."""
    model = load_model(with_fidelity(MODEL, each.name))
    data = prepare_sites([SiteSet(each.name, of_split(each, split))], [model.target], model.graph)
    names = data.sample_names(split)
    result = evaluate_model(model, data.graphs, data.rows(split), names, data.labels(split)[:, 0])
    assert isinstance(result, RegressionEvaluation)
    return result


def rows(each: SiteSet, result: RegressionEvaluation) -> list[list[Any]]:
    figures = result.summary()
    counts = [len(of_split(each, "test")), len(result.ids)]
    error = np.abs(result.mean - result.target)
    span = [
        each.name, f"ensemble of {len(result.members)}", *counts, figures["mae"], figures["rmse"],
        float(np.median(error)), f"{figures['coverage']:.1%}", FIGURES[each.name],
    ]  # fmt: skip
    return [span, [each.name, "one member", *counts, figures["member_mae_mean"], None, None, None, None]]


def by_element(each: SiteSet, result: RegressionEvaluation) -> list[list[Any]]:
    """The names of the sites are the host's and the number of its node; the labels come in the same order."""
    hosts = of_split(each, "test")
    z = np.concatenate([elements_of_nodes(host) for host in hosts])
    error = np.abs(result.mean - result.target)
    assert len(z) == len(error)
    return [
        [each.name, symbols()[number], int((z == number).sum()), float(error[z == number].mean())]
        for number in np.unique(z)
    ]


def elements_of_nodes(host: LabelledHost) -> npt.NDArray[np.int64]:
    """Atomic numbers on the labelled nodes of a host, in the order of the nodes."""
    from cgcnn_ase.graphs.builder import graphs_and_nodes

    graph, node_of_atom = graphs_and_nodes([host.structure], load_model(MODEL).graph)
    nodes = np.unique(node_of_atom[np.isfinite(host.labels)])
    numbers: npt.NDArray[np.int64] = graph.numbers.numpy()[nodes]
    return numbers


def calculated(file: Path) -> dict[str, list[float]]:
    """What DFT says of each host."""
    table = pd.read_csv(file, keep_default_na=False, na_values=[""]).groupby("host")[_CALCULATED].first()
    return {str(name): row.tolist() for name, row in table.iterrows()}


def features(hosts: Iterable[LabelledHost], extra: dict[str, list[float]]) -> tuple[Floats, Floats]:
    """One row a labelled site: atomic fractions of the host, the element removed, what else is known; and its label."""
    x, y = [], []
    for host in hosts:
        fractions = np.bincount(host.structure.numbers, minlength=101) / len(host.structure.numbers)
        for site in np.flatnonzero(np.isfinite(host.labels)):
            removed = np.eye(101)[host.structure.numbers[site]]
            x.append(np.concatenate([fractions, removed, extra.get(host.id, [])]))
            y.append(host.labels[site])
    return np.array(x), np.array(y)


def forest_row(each: SiteSet, extra: dict[str, list[float]], name: str) -> list[Any]:
    forest = RandomForestRegressor(300, random_state=0, n_jobs=1)
    forest.fit(*features(of_split(each, "train"), extra))
    x, y = features(of_split(each, "test"), extra)
    error = forest.predict(x) - y
    counts = [len(of_split(each, "test")), len(y)]
    figures = [float(np.abs(error).mean()), float((error**2).mean() ** 0.5), float(np.median(np.abs(error)))]
    return [each.name, name, *counts, *figures, None, None]


@dataclass(frozen=True)
class SiteRanking:
    """The labelled sites of one host, eV: as predicted, and as they are."""

    set_name: str
    energies: Energies
    truth: Floats

    def cheapest(self) -> Floats:
        """1 for the cheapest site, shared by equal ones, 0 for the others."""
        lowest = (self.truth <= self.truth.min() + 1e-9).astype(float)
        shared: Floats = lowest / lowest.sum()
        return shared

    def probability(self, shrinkage: float) -> Floats:
        p = self.energies.probability_lowest(shrinkage=shrinkage)
        assert p is not None
        return p


def rankings(root: Path) -> list[SiteRanking]:
    """All validation hosts with two or more sites of different energies."""
    published = published_vacancies(root)
    ranked = []
    for each in without_held_out([*published, with_splits(jarvis_vacancies(root / "jarvis_vacancydb"), published)]):
        echo_stderr(each.name)
        result = evaluation(each, "val")
        hosts = np.array([name.rsplit(":", 1)[0] for name in result.ids])
        for host in dict.fromkeys(hosts):
            of = hosts == host
            if len(np.unique(result.target[of])) > 1 and result.std is not None:
                energies = Energies(result.mean[of], result.members[:, of], result.std[of])
                ranked.append(SiteRanking(each.name, energies, result.target[of]))
    return ranked


def scores(ranked: Iterable[SiteRanking], shrinkage: float) -> Floats:
    """One row a host: Brier score, that of always 1/n, and negative logarithm of the probability of the cheapest."""
    rows = []
    for each in ranked:
        p, t = each.probability(shrinkage), each.cheapest()
        log = -np.log(max(float(p[t > 0].sum()), MIN_PROBABILITY))
        rows.append([((p - t) ** 2).sum(), ((1 / len(t) - t) ** 2).sum(), log])
    return np.array(rows)


def ranking_tables(ranked: list[SiteRanking]) -> list[Table]:
    """Scores by set and by shrinkage, and the probabilities beside how often they came true."""
    by_set = Table(
        "p_cheapest on validation hosts", ["set", "hosts", "sites", "Brier score", "of always 1/n", "log loss"],
        notes=["Brier score: sum over the sites of a host, mean of the hosts"],
    )  # fmt: skip
    for name in [*dict.fromkeys(each.set_name for each in ranked), "all"]:
        part = [each for each in ranked if name in (each.set_name, "all")]
        row = [float(v) for v in scores(part, SHRINKAGE).mean(axis=0)]
        by_set.rows.append([name, len(part), sum(len(each.truth) for each in part), *row])
    p = np.concatenate([each.probability(SHRINKAGE) for each in ranked])
    t = np.concatenate([each.cheapest() for each in ranked])
    reliability = Table("Reliability of p_cheapest", ["p", "sites", "mean p", "cheapest"])
    for low, high in pairwise(BINS):
        within = (p >= low) & ((p < high) | (high == BINS[-1]))
        if within.any():
            means = [f"{float(values[within].mean()):.1%}" for values in (p, t)]
            reliability.rows.append([f"{low:g} to {high:g}", int(within.sum()), *means])
    compared = np.array([scores(ranked, each) for each in SHRINKAGES])  # (shrinkages, hosts, 3)
    by_shrinkage = Table("By shrinkage", ["shrinkage", "Brier score", "log loss", "largest log loss of a host"])
    for value, each in zip(SHRINKAGES, compared, strict=True):
        by_shrinkage.rows.append([f"{value:g}", *each[:, [0, 2]].mean(axis=0).tolist(), float(each[:, 2].max())])
    logs = compared[:, :, 2]
    chosen = (logs.sum(axis=1, keepdims=True) - logs).argmin(axis=0)
    left_out = compared[chosen, np.arange(logs.shape[1])]
    row = [*left_out[:, [0, 2]].mean(axis=0).tolist(), float(left_out[:, 2].max())]
    by_shrinkage.rows.append(["chosen on the other hosts", *row])
    return [by_set, reliability, by_shrinkage]


if __name__ == "__main__":
    main()
