"""``cgcnn.stability``: how stable the predicted structures of a set are, one node for all of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Dict, QueryBuilder, SinglefileData

from aiida_plugin.calculations.functions import node_default, versions_of
from aiida_plugin.data.labels import labels_of, only_scheme
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.stability import StabilityData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.models.registry import model_info, model_names
from cgcnn_ase.stability.phases import CompetingPhase, CompetingPhases, check_labels, known_phases_sha256, read_phases
from cgcnn_ase.stability.predictor import TARGET, HullComparison
from cgcnn_ase.structures.composition import formula_of

SETTINGS = ("within", "scale", "leave_out", "together", "population", "model_scale")
_VERSIONS = node_default(
    versions_of("cgcnn-ase", "numpy", "pymatgen", "scipy") | {"competing_phases": known_phases_sha256()}, Dict
)


@calcfunction
def stability(
    predictions: PredictionsData,
    settings: Dict | None = None,
    phases: SinglefileData | StructureSetData | None = None,
    model: CGCNNModelData | None = None,
    competing: PredictionsData | None = None,
    package_versions: Dict = _VERSIONS,  # noqa: ARG001
) -> StabilityData:
    """Compare predicted formation energies with the hull of competing phases; see `cgcnn_ase.stability`.

    Parameters
    ----------
    predictions
        Formation energies per atom, of a set or of one structure.
    settings
        ``within`` (0.05 eV/atom), ``scale`` (mp2020), ``leave_out`` (False: phases of a structure's own formula compete
        with it), ``together`` (False: the structures do not compete with each other) as of
        :class:`~cgcnn_ase.stability.predictor.StabilityPredictor`; ``population``, of which the predictions then must
        be; ``model_scale``, what the model has learned, where the predictions do not say.
    phases
        Competing phases, on ``scale``: a set of structures with labels ``formation_energy_per_atom``, as `cgcnn.fetch`
        makes it, or a JSON file of pymatgen's entries. Without it, the package's table of the Materials Project.
    model
        That made the predictions, whose record says what scale it has learned; needed where the predictions do not, for
        models that are not among the pretrained ones, unless ``model_scale`` says it.
    competing
        More competing phases without known energies: predictions of the same model. Their errors, and with ``together``
        those of the structures, are those of differences, from what each member of the ensemble predicts.
    package_versions
        Of what compares, and the sha256 of the package's table, so that caching tells them apart; filled in.

    Returns
    -------
    StabilityData
        A row for each structure, and the structures that have none.

    Raises
    ------
    ValueError
        If predictions are of another quantity, model, or population, a setting is none of the allowed, the competing
        phases cannot be used, or no structure has a row.
    """
    options = {} if settings is None else settings.get_dict()
    if problem := stability_problem(predictions, options, competing):
        raise ValueError(problem)
    scale = str(options.get("scale", "mp2020"))
    comparison = HullComparison(
        str(options["model_scale"]) if "model_scale" in options else _learned_scale(predictions, model),
        within=float(options.get("within", 0.05)),
        entries=None if phases is None else _competing(phases, scale),
        scale=scale,
        leave_out=bool(options.get("leave_out", False)),
    )
    if (together := bool(options.get("together", False))) or competing is not None:
        others = [] if competing is None else competing.with_members()
        rows = list(comparison.against_predicted(predictions.with_members(), others, together=together))
    else:
        rows = [comparison.of(prediction) for prediction in predictions.predictions()]
    if all(row.error is not None for row in rows):
        raise ValueError(f"no structure has an energy above hull; the first: {rows[0].error}")
    return StabilityData(rows)


def stability_problem(
    predictions: PredictionsData, settings: Mapping[str, Any], competing: PredictionsData | None = None
) -> str | None:
    """Say why these predictions cannot be compared with a hull under these settings; None if they can."""
    attributes = predictions.base.attributes.all
    if attributes["property"] != TARGET:
        return (
            f"stability is read off a formation energy per atom; node {predictions.pk} holds predictions of "
            f"{attributes['property']} by {attributes['model']}"
        )
    if unknown := sorted(set(settings) - set(SETTINGS)):
        return f"unknown settings {', '.join(unknown)}; allowed: {', '.join(SETTINGS)}"
    within = settings.get("within", 0.0)
    if isinstance(within, bool) or not isinstance(within, int | float):
        return f"within must be an energy in eV/atom, not {within!r}"
    for name in ("leave_out", "together"):
        if not isinstance(settings.get(name, False), bool):
            return f"{name} must be true or false, not {settings[name]!r}"
    made_for = _populations(predictions)
    if competing is not None:
        others = competing.base.attributes.all
        if any(others[key] != attributes[key] for key in ("property", "model_sha256")):
            return (
                f"competing phases are predicted by the same model; node {competing.pk} holds predictions of "
                f"{others['property']} by {others['model']} ({others['model_sha256'][:12]}), not by "
                f"{attributes['model']} ({attributes['model_sha256'][:12]})"
            )
        if (of_others := _populations(competing)) != made_for:
            return (
                f"the predicted competing phases are of the population {' and '.join(of_others)}, the structures of "
                f"{' and '.join(made_for)}; predict both with one setting"
            )
    if "population" in settings and made_for != [settings["population"]]:
        return (
            f"the intervals of the predictions are those of the population {' and '.join(made_for)}, not "
            f"{settings['population']}; predict with that setting"
        )
    return None


def _populations(predictions: PredictionsData) -> list[str]:
    """Whose errors the intervals are made for."""
    return sorted({str(each) for each in predictions.columns().get("population", [])})


def model_of(predictions: PredictionsData) -> CGCNNModelData | None:
    """The model that predictions come from by links: the input of the job, or of the jobs of their parts."""
    query = QueryBuilder().append(PredictionsData, filters={"uuid": predictions.uuid}, tag="predictions")
    sha256 = predictions.base.attributes.get("model_sha256")
    query.append(CGCNNModelData, with_descendants="predictions", filters={"attributes.sha256": sha256})
    model: CGCNNModelData | None = query.first(flat=True)
    return model


def _learned_scale(predictions: PredictionsData, model: CGCNNModelData | None) -> str | None:
    """The scale that the model of these predictions says to have learned; None where they, or it, say it or none."""
    name, sha256 = (str(predictions.base.attributes.get(key)) for key in ("model", "model_sha256"))
    if model is not None:
        if model.sha256 != sha256:
            raise ValueError(f"the predictions are of {name} ({sha256[:12]}), model is another ({model.sha256[:12]})")
        return dict(zip(model.names, model.scales, strict=True)).get(name)
    if None not in predictions.columns().get("scale", [None]):
        return None
    if name not in model_names() or (info := model_info(name)).sha256 != sha256:
        raise ValueError(
            f"{name} is no pretrained model, and its predictions state no scale: give its node as model, or say in the "
            "settings what scale it has learned (model_scale)"
        )
    return info.scale


def _competing(node: SinglefileData | StructureSetData, scale: str) -> CompetingPhases:
    """The phases of a node; a ValueError names the node."""
    what = f"node {node.uuid}"
    try:
        if isinstance(node, SinglefileData):
            with node.as_path() as path:
                phases = read_phases(path, scale)
            return replace(phases, source=f"{phases.n_higher + len(phases.phases):,} entries of {what}")
        scheme = only_scheme(node) or {}
        # a label of a DFT code has none
        corrections = scheme.get("corrections", "none" if "functional" in scheme else "")
        check_labels({str(scheme.get("functional", ""))}, {str(corrections)}, scale)
        labels = zip(node.ids, node.iter_atoms(), labels_of(node, TARGET), strict=True)
        rows = [
            CompetingPhase(name, formula_of(atoms.numbers), label) for name, atoms, label in labels if label is not None
        ]
        if not rows:
            raise ValueError(f"no structure has a label {TARGET}")
        return CompetingPhases.of(rows, scale, f"{len(rows):,} structures of {what}")
    except ValueError as error:
        raise ValueError(f"competing phases of {what}: {error}") from error
