"""Train the pretrained models again: ``python -m cgcnn_ase.zoo.train NAME --data FOLDER``."""

import argparse
import gzip
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.site_labels import prepare_sites
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import model_entries, read_config, read_weights, write_files
from cgcnn_ase.models.registry import load_model, pretrained_folder
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.run import train
from cgcnn_ase.training.start_model import Frozen
from cgcnn_ase.zoo import defect_data
from cgcnn_ase.zoo.card import TRAINING_IDS, write_card
from cgcnn_ase.zoo.defect_data import load_vacancies
from cgcnn_ase.zoo.distorted import distorted_ids
from cgcnn_ase.zoo.distorted_frames import labelled_frames

# the data of a recipe that learns the published sets of vacancies together
VACANCIES = "vacancies"
# data that is generated, not read: supercells with and without a defect
DEFECTS = "defects"
# where ``scripts/label_vacancies.py`` puts the set that this project made itself
LABELLED = Path("runs") / "chgnet_vacancies"


class Recipe(NamedTuple):
    """Data and settings of the training of a folder of pretrained models."""

    data: str  # name of the data set's folder, ``vacancies`` for the published sets of them, or ``defects``
    columns: list[str]  # of the data set, one a target; of vacancies, the sets
    scales: list[str | None]  # of the energies among them
    targets: tuple[TargetSpec, ...]
    config: TrainConfig
    start: tuple[str, ...] = ()  # pretrained models that training starts from
    frozen: Frozen = "none"
    suffix: str = ""  # of the models' names, after those of their targets
    # settings that differ in a second training, with frames off equilibrium beside; none: there is one training
    distorted: Mapping[str, object] | None = None


def recipe_names() -> list[str]:
    """Names of the folders of pretrained models that have a recipe."""
    paths = (Path(entry.name) for entry in files("cgcnn_ase.zoo").joinpath("recipes").iterdir())
    return sorted(entry.stem for entry in paths if entry.suffix == ".yaml")


def load_recipe(name: str) -> Recipe:
    """Read the recipe of a folder of pretrained models; there is one for each of them, or a `ValueError`."""
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    text = files("cgcnn_ase.zoo").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")
    recipe: dict[str, Any] = yaml.safe_load(text)
    return Recipe(
        data=recipe["data"],
        columns=[target.pop("column") for target in recipe["targets"]],
        scales=[target.pop("scale", None) for target in recipe["targets"]],
        targets=tuple(parse_settings(TargetSpec, target) for target in recipe["targets"]),
        config=parse_settings(TrainConfig, recipe["train"]),
        start=(recipe["from"],) if isinstance(recipe.get("from"), str) else tuple(recipe.get("from", ())),
        frozen=recipe.get("freeze", "none"),
        suffix=recipe.get("suffix", ""),
        distorted=recipe.get("distorted"),
    )


def train_pretrained(
    name: str,
    data: Path,
    output: Path,
    *,
    extra: Sequence[Path] = (),
    workers: int,
    resume: bool,
    progress: bool = True,
) -> Path:
    """Train a recipe's models in ``output`` and put them, with their card, into the folder of pretrained models.

    ``extra`` are folders of distorted crystals (``scripts/label_crystals.py``), for recipes that learn them.
    """
    recipe = load_recipe(name)
    if extra and recipe.distorted is None:
        raise ValueError(f"--extra: the recipe of {name} learns no distorted crystals")
    prepared = prepared_data(recipe, data, progress=progress)
    best = train(
        prepared,
        recipe.config,
        output if recipe.distorted is None else output / "first",
        resume=resume,
        start=[load_model(name) for name in recipe.start] or None,
        frozen=recipe.frozen,
        workers=workers,
        name=name,
        suffix=recipe.suffix,
        progress=progress,
    )
    if recipe.distorted is not None:
        best = train_on_distorted(
            load_model(best),
            prepared,
            recipe,
            data,
            output,
            extra=extra,
            name=name,
            workers=workers,
            resume=resume,
            progress=progress,
        )
    folder = pretrained_folder() / name
    shutil.copytree(best, folder, dirs_exist_ok=True)
    state_scales(folder, recipe.scales)
    write_ids([prepared.ids[i] for i in prepared.rows("train")], folder)
    write_card(folder, data=recipe.data)
    return folder


def train_on_distorted(
    start: CrystalModel,
    prepared: PreparedData,
    recipe: Recipe,
    data: Path,
    output: Path,
    *,
    extra: Sequence[Path],
    name: str,
    workers: int,
    resume: bool,
    progress: bool = True,
) -> Path:
    """Go on from the model of ``output/first`` in ``output/second``, with frames off equilibrium beside the crystals.

    The networks of the error model are those of the first training: they are of the crystals as they are.
    """
    frames = labelled_frames(data, extra, without=distorted_ids(data, "train"))
    sys.stderr.write(
        f"{len(frames.ids)} frames beside {len(prepared.rows('train'))} crystals; left out: {frames.left_out}\n"
    )
    settings = asdict(recipe.config) | dict(recipe.distorted or {})
    return train(
        prepared,
        parse_settings(TrainConfig, settings),
        output / "second",
        resume=resume,
        start=start,
        folds_of=output / "first",
        beside=frames.prepare(recipe.config.graph, recipe.targets[0], progress=progress),
        workers=workers,
        name=name,
        progress=progress,
    )


def prepared_data(recipe: Recipe, data: Path, *, progress: bool = False) -> PreparedData:
    """Training data of a recipe, from the folder that holds all data sets."""
    if recipe.data == VACANCIES:
        sets = {each.name: each for each in load_vacancies(data, LABELLED)}
        return prepare_sites([sets[name] for name in recipe.columns], recipe.targets, recipe.config.graph)
    if recipe.data == DEFECTS:
        return defect_data.prepared(data, recipe.targets, recipe.config.graph)
    dataset = load_dataset(data / recipe.data, target=recipe.columns)
    return prepare(dataset, recipe.targets, recipe.config.graph, progress=progress)


def state_scales(folder: Path, scales: Sequence[str | None]) -> None:
    """Write the scale of each energy of the models of a folder, in their order, into the records of their training."""
    config = read_config(folder)
    weights = read_weights(folder, config)
    for entry, scale in zip(model_entries(config), scales, strict=True):
        if scale is not None:
            entry["training"]["scale"] = scale
    write_files(folder, config, weights)


def write_ids(ids: list[str], folder: Path) -> Path:
    """Write the ids of the training set, one a line, into ``training-ids.txt.gz``; the same ids give the same file."""
    file = folder / TRAINING_IDS
    file.write_bytes(gzip.compress("".join(f"{name}\n" for name in ids).encode(), mtime=0))
    return file


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=recipe_names())
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--output", type=Path, help="folder of the run; runs/NAME by default")
    parser.add_argument("--extra", type=Path, action="append", default=[], help="distorted crystals to learn, too")
    parser.add_argument("--workers", type=int, default=available_cores(), help="members trained at the same time")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--no-progress", action="store_true")
    options = parser.parse_args()
    output = options.output or Path("runs") / options.name
    folder = train_pretrained(
        options.name,
        options.data,
        output,
        extra=options.extra,
        workers=options.workers,
        resume=options.resume,
        progress=not options.no_progress,
    )
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
