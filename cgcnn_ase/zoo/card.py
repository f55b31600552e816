"""The card of a folder of pretrained models: its README.md, written from what was measured."""

import math
from pathlib import Path
from typing import Any

import yaml

from cgcnn_ase.core.settings import current_names
from cgcnn_ase.models.folder import WEIGHTS, model_entries, read_config

#: where the data sets of the recipes come from
SOURCES = {
    "mp36k": (
        "crystals of the Materials Project (PBE and PBE+U, snapshot of about 2020, legacy compatibility corrections), "
        "the id list of MT-CGCNN. Source: A. Jain et al., APL Mater. 1, 011002 (2013); Materials Project, CC BY 4.0; "
        "packed from the repositories kdmsit/MEGNet and kdmsit/crysxpp (MIT)."
    ),
    "mp_elastic": (
        "elastic moduli (Voigt, Reuss, Hill averages) of crystals of the Materials Project. Source: M. de Jong et al., "
        "Sci. Data 2, 150009 (2015); A. Jain et al., APL Mater. 1, 011002 (2013); Materials Project, CC BY 4.0."
    ),
    "vacancies": (
        "neutral vacancies in oxides, PBE+U: M. Witman et al., Nat. Comput. Sci. 3, 675 (2023), packed from the "
        "repository sandialabs/d2gnn (MIT); oxygen vacancies in oxides: Y. Kumagai et al., Phys. Rev. Materials 5, "
        "123803 (2021), packed from zj-163/CAGNN (MIT); vacancies, OptB88vdW: K. Choudhary and B. Sumpter, AIP Adv. "
        "13, 095109 (2023), from usnistgov/alignn (NIST licence); unrelaxed vacancies in oxides of the Materials "
        "Project (CC BY 4.0) and in the training hosts of the first two sets, labelled with CHGNet 0.4.2 (B. Deng et "
        "al., Nat. Mach. Intell. 5, 1031 (2023); an interatomic potential, not DFT). A host of one set is not used for "
        "training where another set tests its formula."
    ),
    "defects": (
        "supercells with and without one point defect, made from layers of 2DMatPedia (J. Zhou et al., Sci. Data 6, 86 "
        "(2019), packed from Franklalalala/learn_2dmatpedia, MIT) and of JARVIS (K. Choudhary and B. Sumpter, AIP Adv. "
        "13, 095109 (2023), NIST licence), from crystals of the Materials Project (A. Jain et al., APL Mater. 1, "
        "011002 (2013); CC BY 4.0) and from published structures of cathodes. No formula of a host is in two splits."
    ),
}

#: more to say of where a model trained on a data set is not to be trusted
LIMITS = {
    "vacancies": (
        "The vacancies are neutral and isolated. An element of which no vacancy is in the training set, such as "
        "lithium in the sets of oxides, is flagged: the number given for it is an extrapolation. The models differ in "
        "what was calculated (functional, +U, chemical potentials): never mix their values.\n\n"
    ),
    "defects": (
        "The defects were made, not relaxed: displacements up to about 0.05 Å were learned, the larger ones around a "
        "relaxed defect were not. A cell without any repetition (a glass, a molecule) has nothing to hold an atom "
        "against. A defect is found in a supercell; a primitive cell with an atom less is another perfect "
        "crystal.\n\n"
    ),
}

#: what the models know, and what is outside
SCOPE_TEXT_CRYSTALS = (
    "It knows ordered bulk crystals of the kinds in the Materials Project at their relaxed geometries. Elements\n"
    "it has never seen, strongly strained or random geometries, molecules and slabs are outside; `in_domain` and its "
    "reason\nsay so for the first two."
)

#: where it is something else
SCOPE_TEXT = {
    "defects": (
        "It knows supercells of layers, of crystals with few atoms in the primitive cell, and of cathodes. Elements it "
        "has never seen,\nstrongly strained or random geometries and molecules are outside; `in_domain` and its reason "
        "say so for the first two."
    )
}

#: how the test split was used, where not for the tables alone
TEST_USE = {
    "vacancies": (
        "While the recipe was being found, errors on the test split were seen beside those on the validation split, "
        "whose hosts are few: the figures may be a little better than those of a set that nobody has seen."
    ),
    "defects": (
        "The first evaluation on test hosts showed false alarms in displaced cells, upon which such cells were added "
        "to the training set: the figures may be a little better than those of a set that nobody has seen."
    ),
}
_CARD = """\
# {name}

{members} predict {properties} of {what}, with a calibrated uncertainty, a conformal 90 % interval and a warning
where a structure lies outside what they were trained on.

{sections}
One run of each of the {n_members} members (seeds {seeds}). No reduced formula of the test split is in the training
split; {chosen} and the validation split fitted the calibration. {tested}

## Training

Data: {source}

{hashes}

The ids of the training set: `{ids}`. sha256 of `model.safetensors`: `{weights_hash}`

Recipe (`make zoo` trains it again):

```yaml
{recipe}```

## Where not to trust it

{limits}{knows} Equivalent neighbours are kept together, but a graph of the nearest neighbours is not a smooth
function of the positions: there are no forces.

Licence of the weights: MIT, with the attribution that CC BY 4.0 asks of the data.
"""
_REGRESSION = """\
## {name}

{property}{learned}: {n_train:,} training, {n_val:,} validation, {n_test:,} test {samples}.

| test split | |
|---|---|
| MAE, ensemble | {mae:.4f} {learned_unit} |
| MAE, one member: mean (lowest to highest) | {member_mae_mean:.4f} ({member_mae_min:.4f} to {member_mae_max:.4f}) {learned_unit} |
| RMSE, ensemble | {rmse:.4f} {learned_unit} |
| R2 | {r2:.4f} |
| coverage of the 90 % interval | {coverage:.1%} |
| mean width of the interval | {interval_width:.3f} {learned_unit} |
| Spearman correlation of std and absolute error | {spearman:.2f} |
| ENCE, 10 bins (of a perfect std, by sampling noise) | {ence:.3f} ({ence_noise:.3f}) |
| miscalibration area | {miscalibration_area:.3f} |
| negative log likelihood | {nll:.2f} |
"""  # noqa: E501
_CLASSIFICATION = """\
## {name}

{property}, {n_classes} classes: {n_train:,} training, {n_val:,} validation, {n_test:,} test {samples}.

| test split | |
|---|---|
| AUC, ensemble | {auc:.4f} |
| AUC, one member: mean (lowest to highest) | {member_auc_mean:.4f} ({member_auc_min:.4f} to {member_auc_max:.4f}) |
| accuracy | {accuracy:.1%} |
| F1 | {f1:.3f} |
| negative log likelihood | {nll:.3f} |
| calibration error of the probabilities | {ece:.3f} |
| coverage of the 90 % set of classes (mean size) | {coverage:.1%} ({set_size:.2f}) |
| confusion matrix (rows: true class) | {confusion} |
"""

#: the file that holds the ids of the training set, one a line
TRAINING_IDS = "training-ids.txt.gz"


def write_card(folder: Path, *, data: str = "") -> Path:
    """Write ``README.md`` of a model folder from its ``config.json``, and return it.

    ``data`` names the data set, one of :data:`SOURCES`.

    Raises
    ------
    ValueError
        If the training left no figures of a calibrated model on a test split.
    """
    config = read_config(folder)
    entries = model_entries(config)
    recipe, n = current_names(entries[0]["training"]["recipe"]), config["n_members"]
    hashes = {entry["training"]["train_hash"] for entry in entries}
    card = _CARD.format(
        name=config["name"],
        members="One network" if n == 1 else f"{n} networks together",
        what="each site of a crystal" if entries[0]["target"].get("level") == "site" else "a crystal",
        properties=_listed([_property(entry) for entry in entries]),
        sections="\n".join(_section(entry, folder) for entry in entries),
        n_members=n,
        seeds=f"{recipe['seed']} to {recipe['seed'] + n - 1}",
        source=SOURCES.get(data, "not recorded."),
        hashes="\n".join(f"sha256 of the ids and targets of the training split: `{value}`" for value in sorted(hashes)),
        ids=TRAINING_IDS,
        chosen="the last epoch counts"
        if recipe.get("checkpoint") == "last"
        else "the validation split chose the epoch",
        tested=TEST_USE.get(data, "The test split was used for these tables only."),
        weights_hash=config["sha256"][WEIGHTS],
        limits=LIMITS.get(data, ""),
        knows=SCOPE_TEXT.get(data, SCOPE_TEXT_CRYSTALS),
        recipe=yaml.safe_dump(recipe, sort_keys=False),
    )
    file = folder / "README.md"
    file.write_text(card, encoding="utf-8")
    return file


def _section(entry: dict[str, Any], folder: Path) -> str:
    """What was measured of one model."""
    training, target = entry["training"], entry["target"]
    test = {key: math.nan if value is None else value for key, value in training.get("test", {}).items()}
    if "coverage" not in test:
        raise ValueError(f"{folder}: no calibrated test figures of {entry['name']} to write a card from")
    counts = {key: training[key] for key in ("n_train", "n_val", "n_test")}
    named = {"name": entry["name"], "property": _property(entry).capitalize()}
    named["samples"] = "sites" if target.get("level") == "site" else "crystals"
    if target["task"] == "classification":
        return _CLASSIFICATION.format(**named, **counts, **test, n_classes=target["n_classes"])
    is_log = target["transform"] == "log10"
    return _REGRESSION.format(
        **named,
        **counts,
        **test,
        learned=f" in {target['unit']}, learned as its logarithm"
        if is_log
        else f" in {target['unit']}".replace(" in 1", ""),
        learned_unit=f"log10({target['unit']})" if is_log else target["unit"].replace("1", ""),
    )


def _property(entry: dict[str, Any]) -> str:
    name: str = entry["target"]["name"]
    return name.removesuffix("_per_atom").replace("_", " ")


def _listed(names: list[str]) -> str:
    return f"the {names[0]}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
