"""Records from the structure resources of one page: atoms, and the provider's values in our names and units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cgcnn_ase.data.errors import FetchError
from cgcnn_ase.data.optimade.filter import Kept
from cgcnn_ase.data.optimade.providers import Provider
from cgcnn_ase.data.optimade.structures import to_atoms
from cgcnn_ase.data.property_units import conversion
from cgcnn_ase.data.reference import FetchedRecord
from cgcnn_ase.structures import StructureError


def read_records(
    data: Sequence[object], provider: Provider, fields: Sequence[str], kept: Kept
) -> tuple[list[FetchedRecord], list[tuple[str, str]]]:
    """The wanted records of a page, and the ids of those that cannot be used, each with the reason.

    Parameters
    ----------
    data
        The resources, as the server sent them.
    provider
        What it calls our properties.
    fields
        Our properties that the records shall hold.
    kept
        The query, to compare each record with.

    Raises
    ------
    FetchError
        If a resource has no id, or is none that was asked for.
    """
    records: list[FetchedRecord] = []
    refused: list[tuple[str, str]] = []
    for resource in data:
        if not isinstance(resource, dict) or "id" not in resource:
            raise FetchError(f"{provider.url}: the answer holds a structure without an id")
        record = _record(str(resource["id"]), resource.get("attributes") or {}, provider, (*fields, *kept.ranges))
        if isinstance(record, str):
            refused.append((str(resource["id"]), record))
        elif kept(record):
            asked = {name: record.values[name] for name in fields if name in record.values}
            records.append(replace(record, values=asked))
    return records, refused


def _record(id: str, attributes: Mapping[str, Any], provider: Provider, names: Sequence[str]) -> FetchedRecord | str:
    """One record, or why there is none."""
    try:
        atoms = to_atoms(id, attributes)
        values = {}
        for name in dict.fromkeys(names):
            value = _value(id, attributes, provider, name, len(atoms))
            if value is not None:
                values[name] = value
    except StructureError as error:
        return error.reason
    return FetchedRecord(id, atoms, values, dict(provider.words))


def _value(id: str, attributes: Mapping[str, Any], provider: Provider, name: str, n_atoms: int) -> float | None:
    """A property in our unit, or None where the provider has no value."""
    known = provider.properties[name]
    value: Any = attributes
    for step in known.field.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None or value in provider.missing:
        return None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise StructureError(id, f"its {known.field} is {value!r}, no finite number")
    ours = conversion(name, known.unit)(float(value), n_atoms)
    return ours if known.at_least is None else max(ours, known.at_least)
