"""Vacancy formation energies of hosts not seen: the pretrained model of sites against forests on the composition.

DATA holds the published sets (oxide_vacancies_witman, oxide_O_vacancies_kumagai). The forests are fitted here on the
same training hosts.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _report import Table, finish, parser
from _structures import data_root, echo_stderr, require
from sklearn.ensemble import RandomForestRegressor

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.data.site_labels import LabelledHost, SiteSet, prepare_sites
from cgcnn_ase.models.registry import load_model, with_fidelity
from cgcnn_ase.prediction.evaluation import RegressionEvaluation, evaluate_model
from cgcnn_ase.zoo.vacancy_data import published_vacancies

MODEL = "vacancy-formation-energy"
FIGURES = {"witman": "≤ 0.60", "kumagai": "≤ 0.30"}
#: columns of the host in Kumagai's table that a user without DFT does not have
_CALCULATED = ["band_gap", "formation_energy"]

Floats = npt.NDArray[np.float64]


def main() -> None:
    chosen = parser(__doc__ or "").parse_args()
    root = data_root(chosen.data) if chosen.data.is_dir() else chosen.data.parent
    require(root, "oxide_vacancies_witman", "oxide_O_vacancies_kumagai")
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


def evaluation(each: SiteSet) -> RegressionEvaluation:
    """The pretrained model on the test hosts."""
    model = load_model(with_fidelity(MODEL, each.name))
    data = prepare_sites([SiteSet(each.name, of_split(each, "test"))], [model.target], model.graph)
    names = data.sample_names("test")
    result = evaluate_model(model, data.graphs, data.rows("test"), names, data.labels("test")[:, 0])
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


if __name__ == "__main__":
    main()
