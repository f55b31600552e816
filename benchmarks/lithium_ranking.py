"""Do the models rank the lithium vacancies of NCM811 as CHGNet does? Unrelaxed cells; CHGNet is a stand-in, not DFT."""

import numpy as np
from _report import Table, finish, parser
from _structures import echo_stderr
from scipy.stats import spearmanr

from cgcnn_ase.cathodes import cathodes
from cgcnn_ase.defects import Screening, screen_hosts

#: model and fidelity, each beside CHGNet
MODELS = (("vacancy-formation-energy", "chgnet"), ("formation-energy-per-atom", None))


def main() -> None:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--num", type=int, default=5, help="orders of the metals")
    chosen = made.parse_args()
    hosts = [(f"NCM811-{k}", atoms) for k, atoms in enumerate(cathodes("NCM811", num=chosen.num))]
    truth, _ = energies(hosts, "chgnet", None)
    table = Table(
        "Lithium vacancies of NCM811 against CHGNet",
        ["model", "vacancies", "rank correlation", "mean difference (eV)", "MAE without it (eV)", "mean std (eV)"],
        notes=[f"CHGNet: {truth.min():.2f} to {truth.max():.2f} eV, standard deviation {truth.std(ddof=1):.3f} eV"],
    )
    for model, fidelity in MODELS:
        values, stds = energies(hosts, model, fidelity)
        shift = values - truth
        rank, rest = float(spearmanr(values, truth)[0]), float(np.abs(shift - shift.mean()).mean())
        table.rows.append([model, len(values), rank, float(shift.mean()), rest, float(np.mean(stds))])
    finish([table], chosen.output, vars(chosen))


def energies(hosts, model: str, fidelity: str | None) -> tuple[np.ndarray, list[float]]:
    """Of every lithium vacancy, in the order of the hosts; and what the model says of its error."""
    echo_stderr(model)
    question = Screening(model=model, fidelity=fidelity, options={"elements": ["Li"], "supercell": 1})
    results = [one.cost for result in screen_hosts(hosts, question, workers=1) for one in result.defects]
    return np.array([cost.energy for cost in results]), [cost.std for cost in results if cost.std is not None]


if __name__ == "__main__":
    main()
