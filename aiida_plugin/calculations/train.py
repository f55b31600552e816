"""``cgcnn.train``: one job trains or fine-tunes a model on labelled structures with ``cgcnn-ase train``."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from aiida.orm import ArrayData, Dict, RemoteData, Str

from aiida_plugin.calculations.crash_safe import START_ONCE, VERSIONS_DIFFER, CrashSafeCalcJob
from aiida_plugin.calculations.predict import MODEL, copies_of, model_path
from aiida_plugin.calculations.relax import check_potential
from aiida_plugin.calculations.training_data import DATA, TrainingData, gather, write_frames
from aiida_plugin.data.labels import ENERGY_PER_ATOM, LABEL_UNITS
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.core.environment import ENVIRONMENT, package_version
from cgcnn_ase.core.targets import is_name_of

if TYPE_CHECKING:
    from aiida.common.datastructures import CalcInfo
    from aiida.common.folders import Folder
    from aiida.engine import CalcJobProcessSpec

Inputs: TypeAlias = Mapping[str, Any]  # nodes by the names of the inputs
#: options of the command that stand in no settings file
OPTIONS = ("task", "unit", "freeze", "epochs_factor", "preset", "workers", "name")
_CHOICES = {
    "task": ("regression", "log10", "classification"),
    "freeze": ("none", "embedding", "convolutions"),
    "unlabelled": ("error", "skip"),
}
#: settings of the fine-tuning of a potential beside :data:`DATA`, and the options that they become
OF_POTENTIAL = {
    "name": "--name", "epochs_factor": "--epochs-factor", "epochs": "--epochs", "batch_size": "--batch-size",
    "learning_rate": "--lr", "seed": "--seed", "n_replay": "--n-replay",
}  # fmt: skip


def is_potential(inputs: Inputs) -> bool:
    """Tell whether the model to start from is a potential, which learns energy, forces and stress."""
    model: CGCNNModelData | None = inputs.get("model")
    return model is not None and check_potential(model, None) is None


def validation_error(settings: Mapping[str, object], *, tunes: bool, potential: bool = False) -> str | None:
    """Find what is wrong with the settings of a run; None if nothing is.

    They are :data:`DATA`, :data:`OPTIONS` and what the settings file of ``cgcnn-ase train`` takes, or, where a
    potential is tuned, :data:`DATA` and :data:`OF_POTENTIAL`; `tunes` tells whether there is a model to start from.
    """
    from dataclasses import fields

    from cgcnn_ase.core.settings import parse_settings
    from cgcnn_ase.core.yaml_settings import OLD_NAMES, current_names
    from cgcnn_ase.training.config import TrainConfig

    plugin_settings = [*DATA, *OPTIONS]
    of_run = [field.name for field in fields(TrainConfig)]
    allowed_settings = [*DATA, *OF_POTENTIAL] if potential else [*plugin_settings, *of_run]
    if unknown := sorted(set(settings) - {*allowed_settings, *(() if potential else OLD_NAMES)}):
        of_what = " of a potential" if potential else ""
        return f"unknown settings{of_what} {', '.join(unknown)}; allowed: {', '.join(allowed_settings)}"
    for name, allowed in _CHOICES.items():
        if name in settings and settings[name] not in allowed:
            return f"{name} {settings[name]!r}; allowed: {', '.join(allowed)}"
    for name in ("val", "test"):
        part = settings.get(name, 0.1)
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part < 1:
            return f"{name} must be a part from 0 to less than 1, not {part!r}"
    for name, least in (("workers", 1), ("split_seed", 0), ("n_replay", 1)):
        value = settings.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            return f"{name} must be a whole number from {least}, not {value!r}"
    if not isinstance(settings.get("mixed_labels", False), bool):
        return f"mixed_labels must be true or false, not {settings['mixed_labels']!r}"
    factor = settings.get("epochs_factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 0:
        return f"epochs_factor must be a positive number, not {factor!r}"
    for name, without in (("freeze", "none"), ("epochs_factor", 1.0)):
        if not tunes and settings.get(name, without) != without:
            return f"{name} needs a model to start from"
    # what network and graph may hold depends on preset and model, and the command checks it
    left_out = (*plugin_settings, "network", "graph", "n_replay")
    try:
        parse_settings(TrainConfig, current_names({k: v for k, v in settings.items() if k not in left_out}))
    except ValueError as error:
        return str(error)
    return None


def of_file(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings of the command's file."""
    return {name: value for name, value in settings.items() if name not in (*DATA, *OPTIONS)}


def arguments(settings: Mapping[str, object], target: str, model: Mapping[str, str] | None) -> list[str]:
    """The options of the command.

    `model` holds ``target``, ``unit``, ``task``, ``name`` and ``potential`` (empty: none) of the one to start
    from.
    A ValueError is raised if unit or task are others than those of a model that is to learn its own target on, or the
    target of a potential is not the energy.
    """
    if model is not None and model["potential"]:
        if target != ENERGY_PER_ATOM:
            raise ValueError(
                f"target {target!r}: the model {model['name']} is a potential, which learns energy, forces and stress; "
                f"give {ENERGY_PER_ATOM}"
            )
        settings = {"name": f"{model['name']}-tuned", **settings}
        return [
            word for name, option in OF_POTENTIAL.items() if name in settings for word in (option, str(settings[name]))
        ]
    task = settings.get("task", "regression")
    unit = str(settings.get("unit", LABEL_UNITS.get(target, "")))
    if model is not None and is_name_of(target, model["target"]):
        for name in ("unit", "task"):
            asked = settings.get(name, model[name])
            if asked != model[name] and not (name == "task" and (asked, model[name]) == ("log10", "regression")):
                raise ValueError(f"{name} {asked!r}: the model to tune has {target} with the {name} {model[name]!r}")
        result = ["--target", target, "--task", model["task"]]
    else:
        result = ["--target", f"{target}:{task}"]
        result += ["--unit", unit] if unit and task != "classification" else []
    default = f"{target.replace('_', '-')}" if model is None else f"{model['name']}-tuned"
    result += ["--name", str(settings.get("name", default))]
    for name in ("freeze", "epochs_factor", "preset", "workers"):
        if name in settings:
            result += [f"--{name.replace('_', '-')}", str(settings[name])]
    return result


DATA_FOLDER, REPLAY, RUN, SETTINGS_FILE, CACHE = "data", "replay", "run", "train.yaml", "cache"

# what is kept of a run: not the checkpoints, which stay where it ran
RETRIEVED = ("config.yaml", ENVIRONMENT, "metrics.json", "*.csv", "*.png", "best/*", "member-*/history.csv")

_DEPTH = 3  # folders of a retrieved file that are kept, its name counted


class TrainCalculation(CrashSafeCalcJob):
    """Train a model on labelled structures, or fine-tune one.

    A potential is tuned on energy (target ``energy_per_atom``), forces and, where there is one, stress. Its labels must
    be on the zero of energy of the potential.

    The model that comes out is a node, whose creator's inputs say what it was trained on. A job that ran out of time
    (exit code 321) is gone on with by giving its ``remote_folder`` as ``restart_folder`` to another with the same
    inputs: the weights are the same as without the interruption.
    """

    parser, stdout, stderr = "cgcnn.train", "cgcnn-ase.out", "cgcnn-ase.err"

    @classmethod
    def define(cls, spec: "CalcJobProcessSpec") -> None:
        """Inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("structures", valid_type=StructureSetData, help="Labelled structures to learn from.")
        spec.input("target", valid_type=Str, help="Their label: a key of the info, a result, or energy_per_atom.")
        spec.input("test", valid_type=StructureSetData, required=False, help="Labelled structures to test on.")
        spec.input("val", valid_type=StructureSetData, required=False, help="Labelled structures to validate on.")
        spec.input("model", valid_type=CGCNNModelData, required=False, help="The model to start from.")
        spec.input(
            "replay",
            valid_type=StructureSetData,
            required=False,
            help="Of a potential: frames that it has learned, some of which are learned beside.",
        )
        spec.input(
            "model_name", valid_type=Str, required=False, help="Which model, where the node holds several of them."
        )
        spec.input(
            "settings",
            valid_type=Dict,
            required=False,
            help=f"{', '.join(DATA + OPTIONS)}, and all that the settings file of `cgcnn-ase train` takes.",
        )
        spec.input("restart_folder", valid_type=RemoteData, required=False, help="Of a job that ran out of time.")
        spec.input(
            "package_version",
            valid_type=Str,
            default=lambda: Str(package_version()),
            help="Version of cgcnn-ase that is to run; the job reports the one that did.",
        )
        spec.inputs.validator = _check_inputs
        spec.output("model", valid_type=CGCNNModelData, help="The trained and calibrated model.")
        spec.output("metrics", valid_type=Dict, help="Errors on val and test, counts, and what made the labels.")
        spec.output(
            "test_results", valid_type=ArrayData, required=False, help="id, target, prediction, std, ... of the test."
        )
        spec.output(
            "val_results", valid_type=ArrayData, required=False, help="The same of val, where there is no test."
        )
        spec.default_output_node = "metrics"
        spec.exit_code(310, "ERROR_USAGE", message="cgcnn-ase could not start: {reason}")
        spec.exit_code(311, "ERROR_CRASHED", message="cgcnn-ase ended with an error that it does not know: {reason}")
        spec.exit_code(
            320,
            "ERROR_KILLED",
            message="cgcnn-ase was killed (exit code {code}): most often by running out of memory; ask for more, or "
            "make batch_size smaller",
        )
        spec.exit_code(
            321,
            "ERROR_OUT_OF_WALLTIME",
            message="the job ended before cgcnn-ase did, after {n_done} of {n} epochs; to go on, submit it again with "
            "its remote_folder as restart_folder",
        )
        spec.exit_code(
            322,
            "ERROR_OUT_OF_WALLTIME_TOO_EARLY",
            message="the job ended before cgcnn-ase began to train: ask for more wall time",
        )
        spec.exit_code(
            323, "ERROR_OUT_OF_GPU_MEMORY", message="the GPU's memory is too small: make batch_size smaller ({reason})"
        )
        spec.exit_code(330, "ERROR_MISSING_OUTPUT", message="the job left no {file}: {reason}")
        spec.exit_code(331, "ERROR_CORRUPT_OUTPUT", message="{file} cannot be read: {reason}")
        status, name, message = VERSIONS_DIFFER
        spec.exit_code(status, name, message=message, invalidates_cache=True)
        spec.exit_code(340, "ERROR_DIVERGED", message="the training diverged: make learning_rate smaller ({reason})")

    def prepare_for_submission(self, folder: "Folder") -> "CalcInfo":
        """Write the labelled structures and the settings, copy the model (its files unchanged), and say what to run."""
        import yaml

        settings = _settings_dict(self.inputs.get("settings"))
        path = Path(folder.get_abs_path(DATA_FOLDER))
        path.mkdir()
        potential = is_potential(self.inputs)
        copies: list[tuple[str, str, str]] = []
        start = ["--from", self._place_model(folder, copies)] if "model" in self.inputs else []
        if potential:
            data_of(self.inputs).write_frames(path, _scale_of(self.inputs.model))
        else:
            data_of(self.inputs).write(path, self.inputs.target.value)
            Path(folder.get_abs_path(SETTINGS_FILE)).write_text(yaml.safe_dump(of_file(settings)), encoding="utf-8")
            start += ["--config", SETTINGS_FILE]
        if "replay" in self.inputs:
            replay = Path(folder.get_abs_path(REPLAY))
            replay.mkdir()
            write_frames(self.inputs.replay, replay, _scale_of(self.inputs.model))
            start += ["--replay", REPLAY]
        if "restart_folder" in self.inputs:
            start.append("--resume")
        job = self.job(
            "train", DATA_FOLDER, "--output", RUN, *start,
            *arguments(settings, self.inputs.target.value, model_facts(self.inputs)),
            retrieve=[(f"{RUN}/{name}", ".", _DEPTH) for name in RETRIEVED],
        )  # fmt: skip
        job.local_copy_list = copies
        job.provenance_exclude_list = [DATA_FOLDER, REPLAY, MODEL]  # they stand in the nodes of the inputs
        if "restart_folder" in self.inputs:
            remote = self.inputs.restart_folder
            job.remote_copy_list = [
                (remote.computer.uuid, f"{remote.get_remote_path()}/{name}", ".") for name in (RUN, CACHE)
            ]
        job.prepend_text = f"{START_ONCE}\nexport CGCNN_ASE_CACHE=$PWD/{CACHE}"
        return job

    def _place_model(self, folder: "Folder", copies: list[tuple[str, str, str]]) -> str:
        """Put the model's files into the job's folder, of several models one; return what ``--from`` is given."""
        model: CGCNNModelData = self.inputs.model
        model.contents()
        if len(model.names) == 1:
            copies += copies_of(model)
            return model_path(model)
        from cgcnn_ase.models.checkpoint import load_models, save_model
        from cgcnn_ase.models.crystal_model import CrystalModel
        from cgcnn_ase.training.start_model import finetune_member

        model_name = self.inputs.model_name.value
        with TemporaryDirectory() as path:
            start = next(each for each in load_models(model.export(Path(path) / MODEL)) if each.name == model_name)
            alone = CrystalModel(
                [finetune_member(start, k) for k in range(len(start.networks))],
                graph=start.graph,
                target=start.target,
                scaler=start.scaler,
                calibration=start.calibration,
                dropout_calibration=start.dropout_calibration,
                name=start.name,
            )
            save_model(alone, Path(folder.get_abs_path(MODEL)))
        return MODEL


def data_of(inputs: Inputs) -> TrainingData:
    """The labelled structures of a job's inputs, divided; raises as `gather` does."""
    return gather(
        inputs["structures"],
        inputs["target"].value,
        _settings_dict(inputs.get("settings")),
        val=inputs.get("val"),
        test=inputs.get("test"),
    )


def _scale_of(model: CGCNNModelData) -> str:
    """Scale of a potential's energies, which its frames must be on."""
    return str(model.scales[0] or "uncorrected")


def model_facts(inputs: Inputs) -> dict[str, str] | None:
    """``name``, ``target``, ``unit`` and ``task`` of the model to start from, and whether it is a ``potential``.

    Of several models one must be named; ``potential`` is empty where it is none.
    """
    model: CGCNNModelData | None = inputs.get("model")
    if model is None:
        return None
    names = model.names
    model_name = inputs["model_name"].value if "model_name" in inputs else None
    if model_name is None and len(names) > 1:
        raise ValueError(f"the model node holds several models; set model_name to one of {', '.join(names)}")
    if model_name is not None and model_name not in names:
        raise ValueError(f"model_name {model_name!r}; the model node holds {', '.join(names)}")
    k = names.index(names[0] if model_name is None else model_name)
    attributes = model.base.attributes
    facts = {name: str(attributes.get(f"{name}s")[k]) for name in ("target", "unit", "task", "level")}
    if facts["level"] == "site":
        raise ValueError(f"the model {names[k]} predicts sites; labels of sites are trained from Python")
    return facts | {"name": names[k], "potential": "yes" if is_potential(inputs) else ""}


def _settings_dict(settings: Dict | None) -> dict[str, object]:
    result: dict[str, object] = {} if settings is None else settings.get_dict()
    return result


def _check_inputs(inputs: Inputs, _: object) -> str | None:
    """Find what is wrong with the inputs; None if nothing is."""
    if "structures" not in inputs or "target" not in inputs:
        return None  # the ports say so themselves
    settings = _settings_dict(inputs.get("settings"))
    potential = is_potential(inputs)
    if wrong := validation_error(settings, tunes="model" in inputs, potential=potential):
        return wrong
    if "replay" in inputs and not potential:
        return "replay is of a potential, which learns frames; no other model takes it here"
    try:
        arguments(settings, inputs["target"].value, model_facts(inputs))
        data = data_of(inputs)
        if potential:
            data.check_frames()
    except ValueError as error:
        return str(error)
    return None
