"""What compression and expansion cost: formation-energy model and potentials beside SevenNet-0.

    python benchmarks/compression.py --picture docs/images/compression.png

Cells of published cathodes are scaled linearly by 0.7 to 1.4. Of each model the energy above its own value for the cell
as published is compared with SevenNet-0's (extra ``[sevenn]``), a potential and not DFT. A model is right to 25 % where
its rise is within a quarter of SevenNet-0's, or 0.02 eV/atom where this is more.
"""

from pathlib import Path

import numpy as np
from _report import Table, finish, parser
from ase import Atoms
from ase.calculators.calculator import Calculator

import cgcnn_ase
from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.energies.interface import sevennet_calculator
from cgcnn_ase.plotting.model_plots import new_figure, save

HOSTS = ("LiNiO2", "LiCoO2", "LiMn2O4")
SCALES = (0.70, 0.75, 0.80, 0.85, 0.88, 0.91, 0.94, 0.97, 1.00, 1.03, 1.06, 1.10, 1.15, 1.20, 1.30, 1.40)
#: between these the rise shall be right, outside them the models shall flag the cell and rise on
INSIDE = (0.85, 1.20)
PART, MIN_RISE = 0.25, 0.02
BLUE, ORANGE, GREY = "#0571b0", "#d95f02", "#777777"


def scaled(host: str) -> list[Atoms]:
    """The cell at each scale."""
    base = build_cathode(host, supercell=(1, 1, 1))
    cells = []
    for scale in SCALES:
        atoms = base.copy()
        atoms.info.clear()
        atoms.set_cell(base.cell.array * scale, scale_atoms=True)
        cells.append(atoms)
    return cells


def rises(model: str, cells: list[Atoms]) -> tuple[np.ndarray, np.ndarray, list[bool | None]]:
    """Energy above that of the cell as published, std (eV/atom) and domain of each cell."""
    predictions = cgcnn_ase.predict(model, cells)
    if predictions.failures:
        raise ValueError(f"{model}: {predictions.failures[0].error}")
    results = predictions.all
    values = np.array([each.value for each in results], dtype=float)
    stds = np.array([np.nan if each.std is None else float(each.std) for each in results])
    return values - values[SCALES.index(1.0)], stds, [each.in_domain for each in results]


def main() -> None:
    options = parser(__doc__ or "", data=False)
    options.add_argument("--models", nargs="+", default=["formation-energy-per-atom", "cathode-potential"])
    options.add_argument("--picture", type=Path, metavar="FILE.png")
    chosen = options.parse_args()
    teacher = sevennet_calculator()
    table = Table(
        "Rise of the energy of scaled cells beside SevenNet-0",
        ("host", "model", f"within 25 % at scales {INSIDE[0]:g} to {INSIDE[1]:g}", "worst there: part of SevenNet-0's",
         "rises on outside", "flagged outside"),
    )  # fmt: skip
    figure, panels = new_figure(len(HOSTS))
    scales = np.array(SCALES)
    inside = (scales >= INSIDE[0]) & (scales <= INSIDE[1]) & (scales != 1.0)
    outside = (scales < INSIDE[0]) | (scales > INSIDE[1])
    for host, axes in zip(HOSTS, panels, strict=True):
        cells = scaled(host)
        truth = np.array([per_atom(atoms, teacher) for atoms in cells])
        truth -= truth[SCALES.index(1.0)]
        axes.plot(scales, truth, "k-", lw=1.2, label="SevenNet-0")
        for model, color in zip(chosen.models, (BLUE, ORANGE, GREY), strict=False):
            rise, std, in_domain = rises(model, cells)
            part = rise[inside] / truth[inside]
            right = np.abs(rise - truth)[inside] <= np.maximum(PART * np.abs(truth[inside]), MIN_RISE)
            counted = np.abs(truth[inside]) > MIN_RISE
            worst = part[counted][np.argmax(np.abs(part[counted] - 1.0))]
            low, high = rise[scales <= INSIDE[0]], rise[scales >= INSIDE[1]]
            monotone = bool((np.diff(low) < 0).all() and (np.diff(high) > 0).all())
            flagged = np.mean([known is False for known, out in zip(in_domain, outside, strict=True) if out])
            table.rows.append(
                (host, model, f"{right.sum()} of {right.size}", worst, "yes" if monotone else "no", flagged)
            )
            axes.errorbar(scales, rise, std, fmt="o", ms=4, color=color, capsize=2, lw=1, label=model)
        axes.set(title=host, xlabel="linear scale of the cell")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.axvspan(*INSIDE, color="#eeeeee", zorder=0)
    panels[0].legend(frameon=False, fontsize="small")
    panels[0].set_ylabel("rise of the energy (eV/atom)")
    table.notes.append(f"right is a rise within a quarter of SevenNet-0's, or within {MIN_RISE:g} eV/atom")
    finish([table], chosen.output, vars(chosen))
    if chosen.picture is not None:
        save(figure, chosen.picture)


def per_atom(atoms: Atoms, calculator: Calculator) -> float:
    """Energy, eV/atom."""
    atoms = atoms.copy()
    atoms.calc = calculator
    return float(atoms.get_potential_energy()) / len(atoms)


if __name__ == "__main__":
    main()
