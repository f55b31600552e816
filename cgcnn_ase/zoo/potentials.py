"""Train the pretrained potentials again: ``python -m cgcnn_ase.zoo.potentials NAME --data FOLDER``.

With ``--figures`` nothing is trained: what ``benchmarks/potential.py --only dft --output FILE`` measured goes into the
potential's ``config.json`` and its card.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.data.dataset import read_properties
from cgcnn_ase.data.frames import MAX_ENERGY, MAX_FORCE, Frames, join, read_frames, without_absurd
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.models.registry import pretrained_folder
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig
from cgcnn_ase.structures.composition import composition_key, formula_hash, formula_of
from cgcnn_ase.training.potential import FrameLoss, train_potential
from cgcnn_ase.training.potential_run import assemble_potential, fit_potential, potential_config
from cgcnn_ase.zoo.card import CardTexts, add_figures, add_to_record, write_potential_card
from cgcnn_ase.zoo.distorted_frames import held_out_formulas


@dataclass(frozen=True, kw_only=True)
class EarlierTraining:
    """One of the trainings that the last one goes on from."""

    settings: dict[str, object]
    n_convolutions: int
    alone: bool = False  # on the frames of the recipe's own data
    stop_after: int | None = None  # epochs


@dataclass(frozen=True, kw_only=True)
class PotentialRecipe:
    """Frames and settings of the training of a pretrained potential."""

    data: str  # name of the folder of frames, whose val and test parts are those of the training
    repeat: int = 1  # how often its frames are learned in an epoch, beside once those of other folders
    # data sets whose val and test formulas no frame to learn has; nor has it one of EXCLUDED, or of its own val or test
    held_out: tuple[str, ...] = ()
    max_force: float = MAX_FORCE  # of frames to learn, eV/Å
    max_energy: float = MAX_ENERGY  # of these, off one energy for each element, eV/atom
    network: SmoothCGCNNConfig
    earlier: tuple[EarlierTraining, ...] = ()
    settings: dict[str, object]  # of the last training, on all frames
    loss: FrameLoss
    card: CardTexts


RECIPES = {
    "cathode-potential": PotentialRecipe(
        data="teacher_frames",
        network=SmoothCGCNNConfig(n_features=64, n_channels=16, n_products=16, n_convolutions=3, cutoff=4.5),
        earlier=(
            EarlierTraining(
                settings={"epochs": 36, "learning_rate": 3e-3, "compile": True},
                n_convolutions=2,
                alone=True,
                stop_after=32,
            ),
            EarlierTraining(settings={"epochs": 12, "learning_rate": 1.5e-3, "compile": True}, n_convolutions=2),
            EarlierTraining(settings={"epochs": 24, "learning_rate": 2e-3, "compile": True}, n_convolutions=3),
        ),
        settings={"epochs": 26, "learning_rate": 1.5e-3, "compile": True},
        loss=FrameLoss(),
        card=CardTexts(
            title=(
                "A smooth CGCNN: energy, forces and stress of cathode oxides of Li, Ni, Co, Mn, Al, Ti, Mg and Fe, "
                "with a calibrated std of the energy and of each force, and a domain."
            ),
            frames=(
                "no composition (without its lithium) is in two splits; those of the last training are teacher_frames "
                "and what scripts/label_frames.py made with the seeds 4 to 7 (4 and 5: 186 and 174 hosts as by "
                "default; 6 and 7: 191 and 195 hosts of all kinds, --n-disturbed 3); those before it had frames of "
                "the seeds 1 to 3 in their place, the first of them none"
            ),
            truth="against the teacher",
            about=(
                "Frames of layered LiMO2 of Ni, Co, Mn and Al at random compositions and lithium contents 0 to 1, of "
                "spinels, Li2MnO3, disordered rock salts with Al, Ti, Mg and Fe, cathodes without some of their "
                "metals, simple oxides of these elements, a third of them with a vacancy, an exchange or a dopant, and "
                "oxides of the Materials Project (CC BY 4.0): "
                "steps of relaxations and of molecular dynamics, and structures that were strained and rattled. Their "
                "energies, forces and stress are those of SevenNet-0 (Y. Park et al., J. Chem. Theory Comput. 20, 4857 "
                "(2024); MIT), a machine-learned potential and not DFT; its scale is that of uncorrected PBE(+U) "
                "energies with the Materials Project's settings. The potential can be no better than its teacher. It "
                "sees no charges, no magnetic moments and no neighbour beyond 4.5 Å."
            ),
        ),
    ),
    "general-potential": PotentialRecipe(
        data="dft_frames",
        held_out=("mp36k", "dft_frames"),
        repeat=2,
        max_force=100.0,
        max_energy=20.0,
        network=SmoothCGCNNConfig(n_features=64, n_channels=16, n_products=16, n_convolutions=2, cutoff=4.5),
        settings={"epochs": 22, "learning_rate": 4e-3, "batch_size": 16, "compile": True},
        loss=FrameLoss(),
        card=CardTexts(
            title=(
                "A smooth CGCNN: energy, forces and stress of inorganic crystals of all elements of mp36k, with a "
                "calibrated std of the energy and of each force, and a domain."
            ),
            frames=(
                "no frame to learn has a formula of the val and test parts of mp36k or of dft_frames; those to learn "
                "are the training part of dft_frames, each counted twice, and what scripts/label_crystals.py made"
            ),
            truth="against DFT, without offsets",
            about=(
                "Two kinds of frames. Crystals of the training part of mp36k (Materials Project, CC BY 4.0; A. Jain et "
                "al., APL Mater. 1, 011002 (2013)) with up to 16 atoms, as published and distorted: strained, rattled, "
                "with another element in one place, with their elements exchanged, with a point defect, or as a slab. "
                "Their energies, forces and stress are those of SevenNet-0 (Y. Park et al., J. Chem. Theory Comput. "
                "20, 4857 (2024); MIT), a machine-learned potential and not DFT. And PBE(+U) frames on and far off "
                "equilibrium (H. Yang et al., MatterSim, arXiv:2405.04967; MIT): steps of relaxations, crystals of "
                "Alexandria, and crystals at high temperature and pressure, with forces of up to 100 eV/Å. Both are on "
                "the scale of uncorrected PBE(+U) energies with the Materials Project's settings. It sees no charges, "
                "no magnetic moments and no neighbour beyond the cutoff. For cathode oxides take `cathode-potential`, "
                "which knows them better and nothing else. Where a single structure matters more than time, take a "
                "larger potential: CHGNet or SevenNet-0, whose figures stand beside its own below."
            ),
            tells_elements=True,
        ),
    ),
}


def recipe_frames(recipe: PotentialRecipe, data: Path, extra: Sequence[Path] = ()) -> tuple[Frames, Frames]:
    """Frames of a recipe's own data, and all with those to learn of ``extra``, less those whose formula is held out."""
    alone, more = read_frames(data / recipe.data), [read_frames(each) for each in extra]
    together = join(alone, *more)
    known, of_extra = together.split == "train", np.arange(len(together)) >= len(alone)
    keep = known | ~of_extra
    if recipe.held_out:
        held_out, hashes = held_out_formulas(data, recipe.held_out), _formula_hashes(together)
        hosts = _host_hashes(data, [recipe.data, *recipe.held_out], [data / recipe.data, *extra])
        held = np.isin(hashes, [*held_out, *hashes[~known & ~of_extra]]) | np.isin(hosts, list(held_out))
        _tell(f"{int((known & held).sum())} of {int(known.sum())} frames to learn are left out: formulas held out")
        keep &= ~(known & held)
    rows = np.flatnonzero(keep)
    again = np.flatnonzero(keep & known & ~of_extra)
    return together.take(rows[rows < len(alone)]), together.take(np.concatenate([rows, *[again] * (recipe.repeat - 1)]))


def _formula_hashes(frames: Frames) -> "np.typing.NDArray[np.str_]":
    by_key: dict[str, str] = {}
    keys = [composition_key(shape.numbers) for shape in frames.structures]
    for key, shape in zip(keys, frames.structures, strict=True):
        if key not in by_key:
            by_key[key] = formula_hash(formula_of(shape.numbers))
    return np.array([by_key[key] for key in keys])


def _host_hashes(data: Path, names: Sequence[str], folders: Sequence[Path]) -> "np.typing.NDArray[np.str_]":
    """Hashes of the formulas of the crystals that frames were made from, where one of the data sets has them."""
    formulas: dict[str, str] = {}
    for table in (read_properties(data / name)[0] for name in names):
        formulas |= zip(table.iloc[:, 0].astype(str), table["reduced_formula"], strict=True)
    result: list[str] = []
    for table in (read_properties(folder)[0] for folder in folders):
        hosts = table["host"].astype(str) if "host" in table else [""] * len(table)
        result += [formula_hash(formulas[host]) if host in formulas else "" for host in hosts]
    return np.array(result)


def train_pretrained_potential(
    name: str,
    data: Path,
    output: Path,
    *,
    extra: tuple[Path, ...] = (),
    trained: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train a recipe's potential in ``output`` and put it, with its card, into the folder of pretrained models.

    ``extra`` are more folders of frames on the same scale, such as ``scripts/label_frames.py`` and
    ``scripts/label_crystals.py`` make. ``trained`` is a model that has learned these frames already: it is calibrated
    and measured.
    """
    if name not in RECIPES:
        raise unknown_name("potential", name, list(RECIPES))
    recipe = RECIPES[name]
    alone, frames = recipe_frames(recipe, data, extra)
    config = potential_config(recipe.network, **recipe.settings)
    model = output / "last" / "best"
    if trained is not None:
        kept, dropped = without_absurd(frames, max_force=recipe.max_force, max_energy=recipe.max_energy)
        record = {"recipe": asdict(config), "loss": asdict(recipe.loss), "dropped": dropped}
        assemble_potential(load_folder(trained), kept, model.parent, name=name, record=record)
    else:
        start = None
        for k, each in enumerate(recipe.earlier):
            to_learn = alone if each.alone else frames
            start = train_potential(
                without_absurd(to_learn, max_force=recipe.max_force, max_energy=recipe.max_energy)[0],
                potential_config(replace(recipe.network, n_convolutions=each.n_convolutions), **each.settings),
                output / f"earlier-{k}",
                loss=recipe.loss,
                start=start,
                resume=resume,
                progress=progress,
                stop_after=each.stop_after,
            )
        fit_potential(
            frames,
            model.parent,
            start=start,
            config=config,
            loss=recipe.loss,
            max_force=recipe.max_force,
            max_energy=recipe.max_energy,
            name=name,
            resume=resume,
            progress=progress,
            tell=_tell,
        )
    folder = pretrained_folder() / name
    shutil.copytree(model, folder, dirs_exist_ok=True)
    files = [each / file for each in extra for file in ("structures.npz", "properties.csv.gz")]
    hashes = {f"{file.parent.name}/{file.name}": _sha256(file) for file in files if file.exists()}
    add_to_record(folder, {"earlier": [asdict(each) for each in recipe.earlier], "extra_frames": hashes})
    write_potential_card(folder, recipe.card)
    return folder


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, help="folder that holds the data sets")
    parser.add_argument(
        "--extra", type=Path, action="append", default=[], help="folder of more frames; may be repeated"
    )
    parser.add_argument("--output", type=Path, help="folder of the run; runs/NAME by default")
    parser.add_argument(
        "--trained", type=Path, help="model that has learned these frames: only calibrate and measure it"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--no-progress", action="store_true")
    parser.add_argument("--figures", type=Path, nargs="*", help="only put these measured figures into the card")
    options = parser.parse_args()
    folder = pretrained_folder() / options.name
    if options.figures is not None:
        if options.figures:
            add_figures(folder, options.figures)
        write_potential_card(folder, RECIPES[options.name].card)
    elif options.data is None:
        parser.error("--data is needed for a training")
    else:
        folder = train_pretrained_potential(
            options.name,
            options.data,
            options.output or Path("runs") / options.name,
            extra=tuple(options.extra),
            trained=options.trained,
            resume=options.resume,
            progress=not options.no_progress,
        )
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
