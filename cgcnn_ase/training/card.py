"""The card of a pretrained model: its README.md, written from what was measured."""

import math
from pathlib import Path
from typing import Any

import yaml

from cgcnn_ase.model_folder import WEIGHTS, read_config

_CARD = """\
# {name}

{members} predict the {property} of a crystal in {unit}, with a calibrated standard deviation, a conformal 90 %
interval and a warning where a structure lies outside what they were trained on.

## Test split

{n_test} crystals of which no reduced formula is in the training split; one run of each of the {n_members} members
(seeds {seeds}).

| | |
|---|---|
| MAE, ensemble | {mae:.4f} {unit} |
| MAE, one member: mean (lowest to highest) | {member_mae_mean:.4f} ({member_mae_min:.4f} to {member_mae_max:.4f}) {unit} |
| RMSE, ensemble | {rmse:.4f} {unit} |
| R2 | {r2:.4f} |
| coverage of the 90 % interval | {coverage:.1%} |
| mean width of the interval | {interval_width:.3f} {unit} |
| Spearman correlation of std and absolute error | {spearman:.2f} |
| ENCE, 10 bins (of a perfect std, by sampling noise) | {ence:.3f} ({ence_noise:.3f}) |
| miscalibration area | {miscalibration_area:.3f} |
| negative log likelihood | {nll:.2f} |

The same numbers: `python benchmarks/accuracy.py --data DATA`.

## Training

Data: {n_train} training, {n_val} validation crystals of the Materials Project (PBE and PBE+U, snapshot of about 2020,
legacy compatibility corrections), the id list of MT-CGCNN. Source: A. Jain et al., APL Mater. 1, 011002 (2013);
Materials Project, CC BY 4.0; packed from the repositories kdmsit/MEGNet and kdmsit/crysxpp (MIT). The validation split
chose the epoch and fitted the calibration; the test split was used for the table above only.

sha256 of the ids and targets of the training split: `{train_hash}`

sha256 of `model.safetensors`: `{weights_hash}`

Recipe (`make model` trains it again):

```yaml
{recipe}```

## Where not to trust it

It knows ordered bulk crystals of the kinds in the Materials Project at their relaxed geometries. Elements it has never
seen, strongly strained or random geometries, molecules and slabs are outside; `in_domain` and its reason say so for the
first two. Equivalent neighbours are kept together, but a graph of the nearest neighbours is not a smooth function of
the positions: there are no forces.

Licence of the weights: MIT, with the attribution that CC BY 4.0 asks of the data.
"""  # noqa: E501


def write_card(folder: Path) -> Path:
    """Write ``README.md`` of a model folder from its ``config.json``, and return it.

    Raises
    ------
    ValueError
        If the training left no figures of a calibrated model on a test split.
    """
    config = read_config(folder)
    training: dict[str, Any] = config["training"]
    if "coverage" not in training.get("test", {}):
        raise ValueError(f"{folder}: no calibrated test figures to write a card from")
    recipe, n = training["recipe"], config["n_members"]
    card = _CARD.format(
        name=config["name"],
        members="One network" if n == 1 else f"{n} networks together",
        property=config["target"]["name"].removesuffix("_per_atom").replace("_", " "),
        unit=config["target"]["unit"],
        n_members=n,
        seeds=f"{recipe['seed']} to {recipe['seed'] + n - 1}",
        weights_hash=config["sha256"][WEIGHTS],
        recipe=yaml.safe_dump(recipe, sort_keys=False),
        **{key: training[key] for key in ("n_train", "n_val", "n_test", "train_hash")},
        **{key: math.nan if value is None else value for key, value in training["test"].items()},
    )
    file = folder / "README.md"
    file.write_text(card, encoding="utf-8")
    return file
