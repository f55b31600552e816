"""What an active-learning loop learned, round by round."""

from typing import Any

from aiida.engine import calcfunction
from aiida.orm import Dict

#: figures of a round's agreement that the report repeats
_FIGURES = ("n", "mae", "mae_without_offset", "offset", "spearman", "coverage")


@calcfunction
def learning_report(ended: Dict, **rounds: Dict) -> Dict:
    """One row a round, from the agreement of its predictions with the labels that followed, and of the retraining.

    Parameters
    ----------
    ended
        ``reason`` why the loop ended.
    **rounds
        ``agreement_1`` and ``finetune_1``, and so on: what came out of each round.

    Returns
    -------
    Dict
        ``rows`` with ``round``, ``n_labels`` so far, figures of the predictions made before the labels were known
        (``mae``, ``offset``, ...), and ``before`` and ``after`` of the retraining on the test set, where there is one.
    """
    rows: list[dict[str, Any]] = []
    n_labels = 0
    numbers = sorted({int(name.rpartition("_")[2]) for name in rounds})
    for k in numbers:
        row: dict[str, Any] = {"round": k}
        if (found := rounds.get(f"agreement_{k}")) is not None:
            n_labels += found["n"]
            row |= {name: found[name] for name in _FIGURES if name in found.get_dict()}
        row["n_labels"] = n_labels
        if (tuned := rounds.get(f"finetune_{k}")) is not None:
            row |= {name: tuned[name] for name in ("before", "after", "n_train", "n_test") if name in tuned.get_dict()}
        rows.append(row)
    return Dict({"rows": rows, **ended.get_dict()})
