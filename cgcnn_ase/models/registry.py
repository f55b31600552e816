"""Pretrained models by name: where they are, what they are, and how to load them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cgcnn_ase.models.folder import (
    WEIGHTS,
    CheckpointError,
    Json,
    model_entries,
    model_entry,
    read_config,
    stated_scale,
)

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel

DEFAULT_MODEL = "formation-energy-per-atom"
# the name that stands for all pretrained models
ALL = "all"
# other names: what the original CGCNN calls its files; a model with the name of its own fidelity
ALIASES = {
    "bulk-moduli": "bulk-modulus",
    "shear-moduli": "shear-modulus",
    "semi-metal-classification": "is-metal",
    "final-energy-per-atom": "total-energy-per-atom",
    "vacancy-formation-energy-witman": "vacancy-formation-energy",
}


# whose labels a model can speak for, by name: the first is the model's own, each other has a model NAME-FIDELITY
FIDELITIES = {"vacancy-formation-energy": ("witman", "kumagai", "jarvis", "chgnet")}

# architecture of potentials, which ``all`` leaves out, too: they know the materials that they were trained for
_POTENTIAL = "smooth-cgcnn"
# targets that say something of a cell and its defects, not of the material: ``all`` leaves their models out
OF_DEFECTS = ("is_defective",)


class UnknownModelError(ValueError):
    """A model name that is neither pretrained nor a path."""


@dataclass(frozen=True)
class ModelRef:
    """Place of a model: a file, or a folder and the name of one of its models."""

    path: Path
    name: str | None = None  # None for a file


@dataclass(frozen=True)
class ModelInfo:
    """Facts from a model's configuration."""

    name: str
    target: str
    unit: str
    task: str
    n_members: int
    test: Json  # its figures on the test split that its card names, in `learned_unit`
    size: int  # bytes of its weights, which other models may share
    sha256: str
    path: Path
    transform: str = "none"  # what the network learns of the value: ``log10`` of a modulus
    scale: str | None = None  # of energies: see :mod:`cgcnn_ase.energies.scales`

    @property
    def test_mae(self) -> float | None:
        """On the test split, in what the network learns; None for a classification."""
        return self.test.get("mae")

    @property
    def learned_unit(self) -> str:
        """Unit of what the network learns, and of its errors: log10(GPa) of a modulus in GPa."""
        return self.unit if self.transform == "none" else f"{self.transform}({self.unit})"


def pretrained_folder() -> Path:
    """Folder of the pretrained models: in the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "pretrained"
    return installed if installed.is_dir() else package.parent / "pretrained"


def model_names() -> list[str]:
    """Names of the pretrained models."""
    return sorted(_pretrained())


def _pretrained() -> dict[str, ModelRef]:
    """The pretrained models by name: that of their folder, or, of several in one folder, their own."""
    result: dict[str, ModelRef] = {}
    for folder in sorted(path.parent for path in pretrained_folder().glob("*/config.json")):
        refs = _refs(folder)
        result |= {folder.name if len(refs) == 1 else str(ref.name): ref for ref in refs}
    return result


def _refs(folder: Path) -> list[ModelRef]:
    """The models of a folder."""
    return [ModelRef(folder, entry["name"]) for entry in model_entries(read_config(folder))]


def model_info(name: str | Path) -> ModelInfo:
    """Read the facts of a model, without loading its weights."""
    ref = find_model(name)
    config = read_config(ref.path)
    entry = model_entry(config, ref.name)
    return ModelInfo(
        name=entry["name"],
        target=entry["target"]["name"],
        unit=entry["target"]["unit"],
        task=entry["target"]["task"],
        n_members=config["n_members"],
        test=entry["training"].get("test", {}),
        size=(ref.path / WEIGHTS).stat().st_size,
        sha256=config["sha256"][WEIGHTS],
        path=ref.path,
        transform=entry["target"].get("transform", "none"),
        scale=scale_of(config, entry),
    )


def scale_of(config: Json, entry: Json) -> str | None:
    """The scale of the energies of one model of a folder; None where there are none, or it is not stated."""
    is_potential = config["network"]["architecture"].get("architecture") == _POTENTIAL
    return stated_scale(entry["training"], is_potential=is_potential)


def with_fidelity(name: str, fidelity: str | None) -> str:
    """The name of the model that speaks for one of the data sets a model was trained on.

    :class:`UnknownModelError` if there is no such data set; the message lists those there are.
    """
    if fidelity is None:
        return name
    allowed = FIDELITIES.get(name)
    if allowed is None:
        raise UnknownModelError(
            f"fidelity {fidelity!r}: {name} was trained on one set; several: {', '.join(FIDELITIES)}"
        )
    if fidelity not in allowed:
        raise UnknownModelError(f"fidelity {fidelity!r} of {name}; allowed: {', '.join(allowed)}")
    return name if fidelity == allowed[0] else f"{name}-{fidelity}"


@lru_cache
def better_fidelity(name: str, site: int, elements: frozenset[int]) -> str | None:
    """Find the data set of a model's family that has labelled sites of an element, in structures of such elements.

    Of several the one with most labels. None where the model's own is one of them, the model is of no such family, or
    none has them.
    """
    family = next((base for base in FIDELITIES if name == base or name.startswith(f"{base}-")), None)
    n_labels: dict[str, int] = {}
    for fidelity in () if family is None else FIDELITIES[family]:
        other = with_fidelity(str(family), fidelity)
        model = load_model(other) if other in model_names() else None
        domain = None if model is None or model.calibration is None else model.calibration.domain
        if model is not None and domain is not None and site in domain.site_elements and elements <= domain.elements:
            if other == name:
                return None
            n_labels[fidelity] = int(model.training_record.get("n_train", 0))
    return max(n_labels, key=lambda fidelity: n_labels[fidelity], default=None)


def better_potential(model: "CrystalModel", elements: frozenset[int]) -> str | None:
    """Find a pretrained potential that has learned all of these elements, where this potential has not; else None."""
    calibration = model.calibration
    if not model.is_potential or calibration is None or elements <= calibration.domain.elements:
        return None
    return _potential_that_knows(elements, model.name)


@lru_cache
def _potential_that_knows(elements: frozenset[int], name: str) -> str | None:
    for other, ref in _pretrained().items():
        if other == name or read_config(ref.path)["network"]["architecture"].get("architecture") != _POTENTIAL:
            continue
        calibration = load_model(other).calibration
        if calibration is not None and elements <= calibration.domain.elements:
            return other
    return None


def is_pretrained(model: "CrystalModel") -> bool:
    """Tell whether a model is one of the pretrained ones, as it is: not tuned, and not another of the same name."""
    return model.name in model_names() and model_info(model.name).sha256 == model.sha256


def model_level(ref: ModelRef) -> str:
    """Return whether a model predicts crystals (``crystal``) or their sites (``site``)."""
    # a file is one of the original CGCNN
    return "crystal" if ref.name is None else str(model_part(ref)["target"].get("level", "crystal"))


def model_part(ref: ModelRef) -> Json:
    """Return the part of a folder's ``config.json`` that is one model's; no weights are read."""
    return model_entry(read_config(ref.path), ref.name)


def _is_general(ref: ModelRef) -> bool:
    """Tell whether a model is one of any crystal: not of sites, of defects, or a potential of some materials."""
    tag = read_config(ref.path)["network"]["architecture"].get("architecture")
    return model_level(ref) == "crystal" and model_part(ref)["target"]["name"] not in OF_DEFECTS and tag != _POTENTIAL


def find_models(name: str | Path) -> list[ModelRef]:
    """The models that a pretrained name, ``all``, or a path stands for; a folder stands for all models in it.

    ``all`` are those of every property of crystals; a variant such as ``band-gap-alignn`` is left out beside
    ``band-gap``, and so are the detection of defects and the potentials.

    Raises
    ------
    UnknownModelError
        If there is none; the message lists the names.
    CheckpointError
        If a folder is not a model's, or damaged.
    """
    path = Path(name)
    if isinstance(name, str) and "/" not in name and path.exists() and ALIASES.get(name, name) in (*_pretrained(), ALL):
        raise CheckpointError(
            f"{name}: is the name of a pretrained model, and there is a file or folder of that name; write ./{name} "
            "for the latter, or run in another folder for the former"
        )
    if path.is_dir():
        return _refs(path / "best" if (path / "best").is_dir() else path)  # a training run's folder holds it there
    if path.exists():
        return [ModelRef(path)]
    pretrained = _pretrained()
    known = ALIASES.get(str(name), str(name))
    if known == ALL:
        main_names = [name for name in pretrained if not any(name.startswith(f"{other}-") for other in pretrained)]
        refs = [pretrained[name] for name in main_names]
        return [ref for ref in refs if _is_general(ref)]
    if known in pretrained:
        return [pretrained[known]]
    if together := [ref for ref in pretrained.values() if ref.path.name == known]:
        return together
    raise UnknownModelError(
        f"no model {str(name)!r}: neither a file or folder nor a pretrained model; pretrained: "
        f"{', '.join(model_names()) or 'none'}"
    )


def find_model(name: str | Path) -> ModelRef:
    """The one model that a name or path stands for; raises as :func:`load_model` does."""
    refs = find_models(name)
    if len(refs) > 1:
        raise CheckpointError(f"{name}: holds several models, name one: {', '.join(str(ref.name) for ref in refs)}")
    return refs[0]


def load_model(name: str | Path = DEFAULT_MODEL) -> "CrystalModel":
    """Load a model by pretrained name, from a model or run folder, or from an original CGCNN ``.pth.tar``.

    Raises
    ------
    UnknownModelError
        If there is no such model.
    CheckpointError, UnsafeCheckpointError
        If its files are damaged or ask for more than data; or if they hold several models and the name none of them.
    """
    return load_refs([find_model(name)])[0]


def load_refs(refs: "list[ModelRef]") -> "list[CrystalModel]":
    """Load models; those of one folder share their members."""
    from cgcnn_ase.models.checkpoint import load_models
    from cgcnn_ase.models.original_cgcnn import is_legacy, load_legacy

    loaded: dict[Path, list[CrystalModel]] = {}
    for ref in refs:
        if ref.path in loaded:
            continue
        if ref.path.is_dir():
            loaded[ref.path] = load_models(ref.path)
        elif is_legacy(ref.path):
            loaded[ref.path] = [load_legacy(ref.path)]
        else:
            raise CheckpointError(
                f"{ref.path}: not a model; allowed: a model folder, or an original CGCNN .pth.tar file"
            )
    return [next(model for model in loaded[ref.path] if ref.name in (None, model.name)) for ref in refs]
