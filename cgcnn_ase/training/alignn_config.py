"""Translate the ``config.json`` of ALIGNN's ``train_alignn.py`` (https://github.com/usnistgov/alignn).

What decides the network and its training is translated, with ALIGNN's own default where the file says nothing; what
would make another network or training and cannot be had here is refused; what is left is named, not used.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

#: of the networks that are ALIGNN here: how each normalises
_NORMS = {"alignn": "batch", "alignn_layernorm": "layer", "alignn_atomwise": "layer"}

#: key there -> setting here, and the default there
_TRAINING = {
    "epochs": ("epochs", 300),
    "batch_size": ("batch_size", 64),
    "learning_rate": ("learning_rate", 1e-2),
    "weight_decay": ("weight_decay", 0.0),
    "random_seed": ("seed", 123),
    "n_early_stopping": ("patience", None),
    "log_tensorboard": ("tensorboard", False),
}
_NETWORK = {
    "alignn_layers": ("n_alignn", 4),
    "gcn_layers": ("n_gcn", 4),
    "hidden_features": ("n_features", 256),
    "embedding_features": ("n_embedding", 64),
    "edge_input_features": ("n_distances", 80),
    "triplet_input_features": ("n_cosines", 40),
}

#: key -> the values that mean what is done here; others are refused
_ONLY: dict[str, tuple[object, ...]] = {
    "atom_features": ("cgcnn",),
    "neighbor_strategy": ("k-nearest",),
    "optimizer": ("adamw",),
    "scheduler": ("onecycle",),
    "criterion": ("l1", "mse"),
    "classification_threshold": (None,),
    "target_multiplication_factor": (None, 1, 1.0),
    "standard_scalar_and_pca": (False,),
    "dtype": ("float32",),
}
_ONLY_MODEL: dict[str, tuple[object, ...]] = {
    "atom_input_features": (92,),
    "output_features": (1,),
    "link": ("identity",),
    "zero_inflated": (False,),
    "classification": (False,),
    "calculate_gradient": (False,),
    "atomwise_weight": (0, 0.0),
    "stresswise_weight": (0, 0.0),
    "use_cutoff_function": (False,),
    "extra_features": (0,),
}
#: defaults of the network ``alignn_atomwise`` that differ from what is allowed, so that silence is refused too
_ATOMWISE_DEFAULTS = {"calculate_gradient": True}
_HINTS = {
    "classification_threshold": "write the classes into id_prop.csv and give --task classification",
    "classification": "write the classes into id_prop.csv and give --task classification",
    "calculate_gradient": "forces are not learned here",
}
_SPLIT = ("val_ratio", "test_ratio")
_COUNTS = ("n_train", "n_val", "n_test")


class Translated(NamedTuple):
    """Settings that an ALIGNN file asks for."""

    settings: dict[str, object]  #: as in a YAML file of this package
    val: float  #: part for validation
    test: float  #: part for the test
    unused: list[str]  #: keys that have no meaning here


def is_alignn(values: Mapping[str, object]) -> bool:
    """Tell whether settings by name are those of ALIGNN: the network is under ``model`` and has a ``name``."""
    model = values.get("model")
    return isinstance(model, Mapping) and "name" in model


def translate(values: Mapping[str, object]) -> Translated:
    """The settings of this package that do what an ALIGNN file asks for; a ValueError names a key that is not allowed.

    >>> wanted = translate({"epochs": 20, "filename": "A", "model": {"name": "alignn", "gcn_layers": 2}})
    >>> wanted.settings["epochs"], wanted.settings["network"]["n_gcn"], wanted.settings["batch_size"], wanted.unused
    (20, 2, 64, ['filename'])
    """
    model = cast("Mapping[str, object]", values["model"])
    name = str(model["name"])
    if name not in _NORMS:
        raise ValueError(f"model.name: must be {' or '.join(_NORMS)}, not {name!r}")
    _check(values, _ONLY, "")
    _check((_ATOMWISE_DEFAULTS if name == "alignn_atomwise" else {}) | dict(model), _ONLY_MODEL, "model.")
    settings = _translated(values, _TRAINING)
    if settings["seed"] is None:
        del settings["seed"]
    settings["loss"] = "l1" if name == "alignn_atomwise" else values.get("criterion", "mse")
    settings["gradient_clip"] = None
    settings["graph"] = {
        "rule": "shell",
        "cutoff": values.get("cutoff", 8.0),
        "n_neighbors": values.get("max_neighbors", 12),
        "line_graph": True,
        "merge": True,
    }
    settings["network"] = {"architecture": "alignn", "norm": _NORMS[name]} | _translated(model, _NETWORK)
    used = {"model", "cutoff", "max_neighbors", *_TRAINING, *_ONLY, *_SPLIT, *_COUNTS, "train_ratio"}
    val, test = _parts(values)
    train = values.get("train_ratio")
    if isinstance(train, int | float) and abs(train + val + test - 1) > 1e-6:
        used.discard("train_ratio")  # there the rest of the data is not used, here it is
    unused = [key for key in values if key not in used]
    unused += [f"model.{key}" for key in model if key not in {"name", *_NETWORK, *_ONLY_MODEL}]
    return Translated(settings, val, test, unused)


def _translated(values: Mapping[str, object], keys: Mapping[str, tuple[str, object]]) -> dict[str, object]:
    return {ours: values.get(theirs, default) for theirs, (ours, default) in keys.items()}


def _check(values: Mapping[str, object], only: Mapping[str, tuple[object, ...]], where: str) -> None:
    for key, allowed in only.items():
        if key in values and values[key] not in allowed:
            hint = f": {_HINTS[key]}" if key in _HINTS else ""
            words = " or ".join("null" if value is None else str(value) for value in dict.fromkeys(allowed))
            raise ValueError(f"{where}{key}: must be {words}, not {values[key]!r}{hint}")


def _parts(values: Mapping[str, object]) -> tuple[float, float]:
    """The parts for validation and test; numbers of structures are refused, for formulas stay together."""
    for key in _COUNTS:
        if values.get(key) is not None:
            raise ValueError(
                f"{key}: the split is by parts here, since equal formulas stay together: give {', '.join(_SPLIT)}"
            )
    parts = []
    for key in _SPLIT:
        value = 0.1 if values.get(key) is None else values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key}: must be a number, not {value!r}")
        parts.append(float(value))
    return parts[0], parts[1]
