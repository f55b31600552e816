"""``cgcnn.predict``: one job predicts a whole set of structures with ``cgcnn-ase predict``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida.engine.processes.ports import InputPort, PortNamespace
from aiida.orm import Dict, Str, StructureData

from aiida_plugin.calculations.crash_safe import VERSIONS_DIFFER, CrashSafeCalcJob
from aiida_plugin.calculations.functions.structure_sets import structures_node
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import SINGLE, StructureSetData, as_set
from cgcnn_ase.core.environment import ENVIRONMENT, package_version
from cgcnn_ase.prediction.predictor import POPULATIONS

if TYPE_CHECKING:
    from aiida.common.datastructures import CalcInfo
    from aiida.common.folders import Folder
    from aiida.engine import CalcJobProcessSpec

# names of the settings, and the option of the command that each becomes
SETTINGS = {
    "n_dropout": "--n-dropout",
    "seed": "--seed",
    "engine": "--engine",
    "workers": "--workers",
    "population": "--population",
    "second_opinion": "--second-opinion",
}
# of the setting second_opinion: potentials of the job's environment; models of this package are nodes
OPINIONS = ("chgnet", "sevenn")

STRUCTURES, MODEL, OPINION = "structures.npz", "model", "opinion_"
PREDICTIONS, FAILURES = "predictions.csv", "failures.csv"
_EXIT_CODES = (
    (310, "ERROR_USAGE", "cgcnn-ase could not start: {reason}"),
    (
        320,
        "ERROR_KILLED",
        "cgcnn-ase was killed (exit code {code}): most often by running out of memory; ask for more, or split the "
        "structures",
    ),
    (
        321,
        "ERROR_OUT_OF_WALLTIME",
        "the job ended before cgcnn-ase did, after {n_done} of {n} structures: ask for more wall time, or split the "
        "structures",
    ),
    (330, "ERROR_MISSING_OUTPUT", "the job left no {file}: {reason}"),
    (331, "ERROR_CORRUPT_OUTPUT", "{file} cannot be read: {reason}"),
    (332, "ERROR_INCOMPLETE_OUTPUT", "{n_missing} of {n} structures have no prediction: {ids}"),
    (333, "ERROR_MODEL_MISMATCH", "the predictions are of a model {found}, asked was {asked}"),
    VERSIONS_DIFFER,
    (340, "ERROR_ALL_FAILED", "no structure could be predicted; the first: {reason}"),
)
_FINAL = ("ERROR_MODEL_MISMATCH", "ERROR_ALL_FAILED")


class PredictCalculation(CrashSafeCalcJob):
    """Predict every structure of a set with one model.

    One process node, whatever the number of structures: the set goes in as one node, the predictions come out as one.
    Structures that cannot be predicted are listed in the predictions' ``failures``; the job is a success all the same,
    unless all of them failed.
    """

    parser, stdout, stderr = "cgcnn.predict", "cgcnn-ase.out", "cgcnn-ase.err"

    @classmethod
    def define(cls, spec: "CalcJobProcessSpec") -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input(
            "model",
            valid_type=CGCNNModelData,
            serializer=model_node,
            help="The model: a node, or a name of a pretrained one, or a path, whose node is found or made.",
        )
        spec.input(
            "structures",
            valid_type=(StructureSetData, StructureData),
            serializer=structures_node,
            validator=_check_structures,
            help=f"The structures to predict: a set, or one structure (which has the id {SINGLE}). A group, its "
            "label, or a query becomes the set of what it holds at that time.",
        )
        spec.input(
            "settings",
            valid_type=Dict,
            required=False,
            validator=_check_settings,
            help=f"Options of the prediction: {', '.join(SETTINGS)}.",
        )
        spec.input_namespace(
            "second_opinions",
            valid_type=CGCNNModelData,
            dynamic=True,
            required=False,
            help="Other models of the same property, under any names: how far they disagree is second_opinion_std.",
        )
        spec.input(
            "package_version",
            valid_type=Str,
            default=lambda: Str(package_version()),
            help="Version of cgcnn-ase that is to run; the job reports the one that did.",
        )
        spec.output(
            "predictions", valid_type=PredictionsData, required=False, help="A row for each structure (or site)."
        )
        spec.output_namespace(
            "by_model",
            valid_type=PredictionsData,
            dynamic=True,
            required=False,
            help="The same, of a model node that holds several models.",
        )
        spec.output("summary", valid_type=Dict, help="Counts, mean, and how many structures are in the domain.")
        spec.default_output_node = "summary"
        for status, name, message in _EXIT_CODES:
            # what another attempt may mend is never taken from the cache
            spec.exit_code(status, name, message=message, invalidates_cache=name not in _FINAL)

    def prepare_for_submission(self, folder: "Folder") -> "CalcInfo":
        """Write the structures, copy the model (its files unchanged), and say what to run."""
        model: CGCNNModelData = self.inputs.model
        model.contents()
        as_set(self.inputs.structures).write_packed(str(folder.get_abs_path(STRUCTURES)))
        settings = self.inputs.settings.get_dict() if "settings" in self.inputs else {}
        opinions = {f"{OPINION}{name}": node for name, node in sorted(self.inputs.get("second_opinions", {}).items())}
        asked: list[tuple[str, ...]] = [
            (option, text) for name, option in sorted(SETTINGS.items()) for text in _texts(settings.get(name))
        ]
        if settings.get("n_dropout") is None:  # samples of dropout have nothing in common between structures
            asked.append(("--member-values",))
        asked += [(SETTINGS["second_opinion"], model_path(node, path)) for path, node in opinions.items()]
        job = self.job(
            "predict", STRUCTURES, "--model", model_path(model), "--output", PREDICTIONS, "--failures", FAILURES,
            "--environment", ENVIRONMENT, *(text for option in asked for text in option),
            retrieve=(FAILURES, ENVIRONMENT),
        )  # fmt: skip
        job.local_copy_list = copies_of(model)
        for path, node in opinions.items():
            node.contents()
            job.local_copy_list += copies_of(node, path)
        # nothing is kept twice: the structures are the input's, and the table becomes the predictions' node
        job.provenance_exclude_list, job.retrieve_temporary_list = [STRUCTURES], [PREDICTIONS]
        return job


def model_node(name: str | Path) -> CGCNNModelData:
    """Find or make the node of a model's name or path: what an input that takes a model does with a string."""
    if not isinstance(name, str | Path):
        raise TypeError(f"a model is a node of cgcnn.model, a name or a path, not a {type(name).__name__}")
    return CGCNNModelData.get_or_create(name)


def _check_structures(structures: StructureSetData | StructureData | None, _: object) -> str | None:
    if isinstance(structures, StructureData):
        try:
            as_set(structures)
        except ValueError as error:
            return str(error)
    return None


def copies_of(model: CGCNNModelData, folder: str = MODEL) -> list[tuple[str, str, str]]:
    """List the copies of the model's files into a folder of the job's."""
    return [(model.uuid, name, f"{folder}/{name}") for name in model.base.repository.list_object_names()]


def model_path(model: CGCNNModelData, folder: str = MODEL) -> str:
    """Return the argument of ``--model``: the folder, or the single file of an original model."""
    names = model.base.repository.list_object_names()
    return folder if "config.json" in names else f"{folder}/{names[0]}"


def _texts(value: object) -> list[str]:
    """The values of an option: one, none, or several in a list."""
    return [] if value is None else [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _check_settings(settings: Dict | None, _: object) -> str | None:
    return None if settings is None else settings_problem(settings.get_dict())


def hypothetical_by_default(inputs: PortNamespace) -> None:
    """Give ``predict.settings`` of a search a default: the errors of candidates are those of hypothetical crystals."""
    port = inputs.get_port("predict.settings")
    assert isinstance(port, InputPort)
    port.default = lambda: Dict({"population": "hypothetical"})


def asks_second_opinions(inputs: Mapping[str, Any]) -> bool:
    """Tell whether inputs of a prediction ask for second opinions, whose scale is that of the whole set."""
    settings = inputs.get("settings")
    return bool(inputs.get("second_opinions")) or bool(settings is not None and settings.get("second_opinion", None))


SHARDS_OF_OPINIONS = "second opinions are on the scale of the whole set: predict it in one job, without n_shards"


def settings_problem(settings: Mapping[str, object]) -> str | None:
    """Say what is wrong with the settings of a prediction, None if nothing is."""
    if unknown := sorted(set(settings) - set(SETTINGS)):
        return f"unknown settings {', '.join(unknown)}; allowed: {', '.join(SETTINGS)}"
    if "engine" in settings and settings["engine"] not in ("auto", "dgl", "torch"):
        return f"engine {settings['engine']!r}; allowed: auto, dgl, torch"
    if settings.get("population", "known") not in POPULATIONS:
        return f"population {settings['population']!r}; allowed: {', '.join(POPULATIONS)}"
    if "seed" in settings and "n_dropout" not in settings:
        return "seed has no effect without n_dropout: only samples are drawn at random"
    opinions = settings.get("second_opinion", [])
    if not isinstance(opinions, list) or (set(map(str, opinions)) - set(OPINIONS)):
        return (
            f"second_opinion must be a list of {', '.join(OPINIONS)}, not {opinions!r}; other models are nodes, in "
            "second_opinions"
        )
    for name in ("n_dropout", "seed", "workers"):
        value = settings.get(name, 0)
        if not isinstance(value, int) or value < 0:
            return f"{name} must be a whole number, not {value!r}"
    return None
