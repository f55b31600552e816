"""Train the pretrained potentials again: ``python -m cgcnn_ase.zoo.potentials NAME --data FOLDER``."""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.data.frames import join, read_frames
from cgcnn_ase.models.folder import CARD, WEIGHTS, read_config
from cgcnn_ase.models.registry import pretrained_folder
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig
from cgcnn_ase.training.potential import FrameLoss, train_potential
from cgcnn_ase.training.potential_run import fit_potential, potential_config


@dataclass(frozen=True, kw_only=True)
class PotentialRecipe:
    """Frames and settings of the training of a pretrained potential."""

    data: str  # name of the folder of frames
    network: SmoothCGCNNConfig
    first: dict[str, object]  # settings of a training on ``data`` alone
    stop_after: int  # epochs of it
    settings: dict[str, object]  # of the training that goes on from there, on more frames, too
    loss: FrameLoss
    about: str  # what the card says of the frames and the domain


RECIPES = {
    "cathode-potential": PotentialRecipe(
        data="teacher_frames",
        network=SmoothCGCNNConfig(n_features=64, n_channels=16, n_products=16, n_convolutions=2, cutoff=4.5),
        first={"epochs": 36, "learning_rate": 3e-3, "compile": True},
        stop_after=32,
        settings={"epochs": 12, "learning_rate": 1.5e-3, "compile": True},
        loss=FrameLoss(),
        about=(
            "Frames of layered LiMO2 of Ni, Co, Mn and Al at random compositions and lithium contents 0 to 1, of "
            "spinels, Li2MnO3, disordered rock salts with Ti, Mg and Fe, simple oxides of these elements, a third of "
            "them with a vacancy, an exchange or a dopant, and oxides of the Materials Project (CC BY 4.0): steps of "
            "relaxations and of molecular dynamics, and structures that were strained and rattled. Their energies, "
            "forces and stress are those of SevenNet-0 (Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024); MIT), "
            "a machine-learned potential and not DFT; its scale is that of uncorrected PBE(+U) energies with the "
            "Materials Project's settings. The potential can be no better than its teacher. It sees no charges, no "
            "magnetic moments and no neighbour beyond 4.5 Å."
        ),
    ),
}


def train_pretrained_potential(
    name: str, data: Path, output: Path, *, extra: tuple[Path, ...] = (), resume: bool = False, progress: bool = True
) -> Path:
    """Train a recipe's potential in ``output`` and put it, with its card, into the folder of pretrained models.

    ``extra`` are more folders of frames on the same scale, all to train on, such as ``scripts/label_frames.py`` makes.
    """
    if name not in RECIPES:
        raise unknown_name("potential", name, list(RECIPES))
    recipe = RECIPES[name]
    frames = read_frames(data / recipe.data)
    first = train_potential(
        frames,
        potential_config(recipe.network, **recipe.first),
        output / "first",
        loss=recipe.loss,
        resume=resume,
        progress=progress,
        stop_after=recipe.stop_after,
    )
    result = fit_potential(
        join(frames, *map(read_frames, extra)),
        output / "second",
        start=first,
        config=potential_config(recipe.network, **recipe.settings),
        loss=recipe.loss,
        name=name,
        resume=resume,
        progress=progress,
        tell=_tell,
    )
    folder = pretrained_folder() / name
    shutil.copytree(result.model, folder, dirs_exist_ok=True)
    write_potential_card(folder, recipe.about)
    return folder


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def write_potential_card(folder: Path, about: str) -> Path:
    """Write ``README.md`` of a potential from its ``config.json``, and return it."""
    config = read_config(folder)
    training = config["training"]
    network = config["network"]["architecture"]
    counts = ", ".join(f"{training[f'n_{split}']:,} {split}" for split in ("train", "val", "test"))
    lines = [
        f"# {config['name']}",
        "",
        "A smooth CGCNN: energy, forces and stress of cathode oxides of Li, Ni, Co, Mn, Al, Ti, Mg and Fe, with a "
        "calibrated std of the energy and of each force, and a domain.",
        "",
        f"{about}",
        "",
        f"Frames: {counts}; no composition (without its lithium) is in two splits; those of training "
        "are teacher_frames and what scripts/label_frames.py made with the seeds 1 and 2. One training, seed "
        f"{training['recipe']['seed']}; {network['n_convolutions']} convolutions of {network['n_features']} features "
        f"and {network['n_channels']} channels, harmonics to degree {network['n_degrees']}, cutoff "
        f"{network['cutoff']:g} Å, {config['network']['n_heads']} heads.",
        "",
        "| against the teacher | val | test |",
        "|---|---|---|",
        *(_row(words, key, training) for words, key in _FIGURES),
        "",
        f"sha256 of the ids and energies of the training split: `{training['train_hash']}`, of the weights: "
        f"`{config['sha256'][WEIGHTS]}`.",
        "",
        "The test split was looked at once, after the training. `config.json` holds the settings.",
    ]
    file = folder / CARD
    atomic_write(file, "\n".join(lines) + "\n")
    return file


_FIGURES = (
    ("energy, mean absolute error, eV/atom", "mae"),
    ("forces, mean absolute error of a component, eV/Å", "forces_mae"),
    ("stress, mean absolute error of a component, GPa", "stress_mae"),
    ("coverage of the 90 % interval of the energy", "coverage"),
    ("Spearman correlation of the std of the energy and its error", "energy_spearman"),
    ("Spearman correlation of the std of a force and its error", "forces_spearman"),
    ("share in domain", "in_domain"),
)


def _row(words: str, key: str, training: dict[str, Any]) -> str:
    cells = [
        "–" if (value := training.get(split, {}).get(key)) is None else f"{value:.4f}" for split in ("val", "test")
    ]
    return f"| {words} | {' | '.join(cells)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--extra", type=Path, action="append", default=[], help="more frames, all to train on")
    parser.add_argument("--output", type=Path, help="folder of the run; runs/NAME by default")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--no-progress", action="store_true")
    options = parser.parse_args()
    folder = train_pretrained_potential(
        options.name,
        options.data,
        options.output or Path("runs") / options.name,
        extra=tuple(options.extra),
        resume=options.resume,
        progress=not options.no_progress,
    )
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
