"""From what the members of a model say of structures to the fields of a :class:`Prediction`, in physical units."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.nn.model import CrystalModel, MemberOutputs
from cgcnn_ase.prediction import NOTHING
from cgcnn_ase.uncertainty.class_trust import ClassTrust, tempered
from cgcnn_ase.uncertainty.estimators import combine
from cgcnn_ase.uncertainty.trust import Trust

if TYPE_CHECKING:
    from cgcnn_ase.nn.model import AnyTrust
    from cgcnn_ase.uncertainty.domain import DomainVerdict

Fields = dict[str, Any]
Numbers = npt.NDArray[np.int64]


def prediction_fields(
    model: CrystalModel,
    out: MemberOutputs,
    composition: npt.NDArray[np.float32],
    trust: "AnyTrust | None",
    *,
    site_numbers: Numbers | None = None,
) -> list[Fields]:
    """One dict of value, std, lower, upper, ... for each structure (or site); None for what the model cannot say.

    Of sites, ``composition`` are those of their hosts and ``site_numbers`` the atomic numbers on the sites.
    """
    if model.target.task == "classification":
        return _classes(out, composition, trust, site_numbers)
    return _values(model, out, composition, trust, site_numbers)


def _values(
    model: CrystalModel,
    out: MemberOutputs,
    composition: npt.NDArray[np.float32],
    trust: "AnyTrust | None",
    site_numbers: Numbers | None,
) -> list[Fields]:
    """Of a regression."""
    assert trust is None or isinstance(trust, Trust)
    estimate = combine(out.values.numpy(), None if out.stds is None else out.stds.numpy())
    values = _physical(model, estimate.mean)
    # of the physical quantity in what the network learned
    slope = values * np.log(10.0) if model.target.transform == "log10" else np.ones_like(values)
    columns: dict[str, Any] = {"value": values}
    if len(out.values) > 1:
        columns["epistemic"] = estimate.epistemic * slope
        columns["std"] = columns["epistemic"]
    if estimate.aleatoric is not None:
        columns["aleatoric"] = estimate.aleatoric * slope
    if trust is None:
        return _rows(columns)
    judged = trust.judge(estimate, out.embedding.numpy(), composition, site_numbers)
    columns |= {
        "std": judged.std * slope,
        "lower": _physical(model, judged.lower),
        "upper": _physical(model, judged.upper),
    }
    return _rows(columns, judged.domain)


def _classes(
    out: MemberOutputs,
    composition: npt.NDArray[np.float32],
    trust: "AnyTrust | None",
    site_numbers: Numbers | None,
) -> list[Fields]:
    """Of a classification."""
    assert trust is None or isinstance(trust, ClassTrust)
    assert out.logits is not None
    logits = out.logits.double().numpy()
    judged = None if trust is None else trust.judge(logits, out.embedding.numpy(), composition, site_numbers)
    members = tempered(logits, 1.0 if trust is None else trust.temperature)
    p = members.mean(axis=0) if judged is None else judged.probabilities
    columns: dict[str, Any] = {"value": p[:, 1] if p.shape[1] == 2 else p.argmax(axis=1).astype(float)}
    if len(logits) > 1:
        columns["epistemic"] = np.take_along_axis(members.std(axis=0), p.argmax(axis=1)[:, None], axis=1)[:, 0]
    columns["probabilities"] = [tuple(row) for row in p.tolist()]
    if judged is None:
        return _rows(columns | {"std": columns.get("epistemic", [None] * len(p))})
    columns |= {"std": judged.std, "lower": judged.lower, "upper": judged.upper}
    return _rows(columns, judged.domain)


def _physical(model: CrystalModel, learned: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """In the target's own unit and between its limits."""
    target = model.target
    values: npt.NDArray[np.float64] = target.inverse(target.limited(torch.from_numpy(learned))).numpy()
    return values


def _rows(columns: dict[str, Any], domain: "list[DomainVerdict] | None" = None) -> list[Fields]:
    listed = {name: column.tolist() if isinstance(column, np.ndarray) else column for name, column in columns.items()}
    rows = [NOTHING | dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
    if domain is None:
        return rows
    verdicts = [{"in_domain": verdict.in_domain, "reason": verdict.reason} for verdict in domain]
    return [row | verdict for row, verdict in zip(rows, verdicts, strict=True)]
