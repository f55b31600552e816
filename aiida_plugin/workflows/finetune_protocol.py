"""The protocols of ``cgcnn.finetune``: recipes by name and by how many labels there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgcnn_ase.training.settings import merged, read_yaml

_FILE = Path(__file__).parent / "protocols" / "finetune.yaml"


def protocol_names() -> dict[str, str]:
    """The protocols, each with what it is for."""
    return {name: str(values["description"]) for name, values in read_yaml(_FILE)["protocols"].items()}


def protocol_inputs(
    protocol: str | None, n_labels: int, overrides: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], int]:
    """The recipe of a protocol for so many labels, and how often a job is gone on with.

    Parameters
    ----------
    protocol
        fast, balanced or stringent; by default balanced.
    n_labels
        Labelled structures to learn from. Fewer than 50 have a recipe of their own in every protocol.
    overrides
        ``recipe`` (settings by name) and ``max_restarts``.

    Raises
    ------
    ValueError
        If there is no such protocol, or nothing of that name to override.
    """
    known = read_yaml(_FILE)
    name = protocol or str(known["default_protocol"])
    if name not in known["protocols"]:
        raise ValueError(f"unknown protocol {name!r}; allowed: {', '.join(known['protocols'])}")
    few = known["few_labels"] if n_labels < known["few_below"] else {}
    own = {key: value for key, value in known["protocols"][name].items() if key != "description"}
    if strange := sorted(set(overrides or {}) - set(known["default"])):
        raise ValueError(f"overrides of {', '.join(strange)}; allowed: {', '.join(known['default'])}")
    found = merged(known["default"], own, few, overrides or {})
    return found["recipe"], int(found["max_restarts"])
