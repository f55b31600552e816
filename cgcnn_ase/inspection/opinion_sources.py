"""Sources of second opinions: models of the same property, and anything that gives energies."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cgcnn_ase.energies.scales import scale_of
from cgcnn_ase.models.registry import model_info, model_names
from cgcnn_ase.prediction.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.energies.interface import EnergyModel
    from cgcnn_ase.models.crystal_model import CrystalModel

    OpinionSource = str | Path | CrystalModel | BaseCalculator | EnergyModel


class Opinion(Protocol):
    """Another model."""

    name: str
    gives: str  # in words
    own_model: bool  # one of this package, whose energies are on the scale of its labels

    def covers(self, name: str) -> bool:
        """Return whether it says something of a property."""

    def scale(self, name: str) -> str | None:
        """Return the scale of an energy by name; None where it is not stated."""

    def values(self, structures: "Sequence[Atoms]", name: str) -> list[float | str]:
        """Values of a property in its unit, and why there is none."""


class ModelOpinion:
    """A model of this package, of the same property; of several in one folder the one that predicts it."""

    own_model = True

    def __init__(self, source: "str | Path | CrystalModel") -> None:
        models = Predictor(source).inference().models
        names, targets = [model.name for model in models], [model.target.name for model in models]
        if len(set(targets)) < len(targets):
            raise ValueError(f"{source}: holds several models of one property, name one: {', '.join(names)}")
        for model in models:
            model.check_level("crystal", "a second opinion")
        self.name = " and ".join(names)
        self.gives = f"predicts {', '.join(targets)}"
        self._models = dict(zip(targets, models, strict=True))

    def covers(self, name: str) -> bool:
        """Return whether this is a property that the model predicts."""
        return name in self._models

    def scale(self, name: str) -> str | None:
        """Return the scale that the model states."""
        return self._models[name].scale

    def values(self, structures: "Sequence[Atoms]", name: str) -> list[float | str]:
        """Values of the model, in its unit, and why there is none."""
        from cgcnn_ase.structures import read_structures

        predictions = Predictor(self._models[name]).inference()(list(read_structures(list(structures))))
        return [p.error or "no value" if p.value is None else p.value for p in predictions]


class EnergyOpinion:
    """Anything that gives energies of cells."""

    gives = "gives energies: it has an opinion on energies per atom"

    def __init__(self, model: "EnergyModel") -> None:
        from cgcnn_ase.energies.energy_model import GraphEnergy

        self._model, self.name = model, model.name
        self.own_model = isinstance(model, GraphEnergy)

    def covers(self, name: str) -> bool:
        """Return whether the property is an energy per atom."""
        from cgcnn_ase.energies.energy_model import PER_ATOM_ENERGIES

        return name in PER_ATOM_ENERGIES

    def scale(self, name: str) -> str | None:
        """Return the scale that the energies are stated to be on."""
        del name
        return scale_of(self._model)

    def values(self, structures: "Sequence[Atoms]", name: str) -> list[float | str]:
        """Energies, eV/atom, less those of the elements where the property is a formation energy; or why not."""
        from cgcnn_ase.energies.energy_model import energies_or_failures

        values = energies_or_failures(self._model, structures)
        table = self._model.references if name == "formation_energy_per_atom" else None
        for k, (atoms, energy) in enumerate(zip(structures, values, strict=True)):
            if isinstance(energy, str):
                continue
            if missing := set(atoms.symbols) - set(table or atoms.symbols):
                values[k] = f"no reference energy of {', '.join(sorted(missing))}"
            else:
                values[k] = (energy - sum(table[symbol] for symbol in atoms.symbols) if table else energy) / len(atoms)
        return values


def as_opinion(source: "OpinionSource") -> Opinion:
    """Make a source of opinions of what people have at hand; unknown names are a `ValueError`."""
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.energies.energy_model import POTENTIALS, as_energy_model
    from cgcnn_ase.energies.interface import EnergyModel

    if source in POTENTIALS or isinstance(source, BaseCalculator | EnergyModel):
        return EnergyOpinion(as_energy_model(source))
    return ModelOpinion(source)


@cache
def _chgnet_offsets() -> dict[str, float]:
    """Offsets of CHGNet from the labels of the pretrained models, eV/atom by element."""
    text = files("cgcnn_ase.inspection").joinpath("chgnet_offsets.json").read_text(encoding="utf-8")
    offsets: dict[str, float] = json.loads(text)["offsets"]
    return offsets


def measured_offsets(opinion: Opinion, name: str, model_sha256: str) -> Mapping[str, float] | None:
    """Return offsets to a model's scale that come with the package, eV/atom by element; None where there are none.

    They are of CHGNet, and right for the pretrained models of the formation energy.
    """
    if name != "formation_energy_per_atom" or not opinion.name.startswith("CHGNet"):
        return None
    pretrained = {info.sha256 for info in map(model_info, model_names()) if info.target == name}
    return _chgnet_offsets() if model_sha256 in pretrained else None
