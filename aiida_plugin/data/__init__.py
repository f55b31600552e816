"""AiiDA's nodes of structures, models and predictions, and what their fields share."""

from typing import Any, cast

from aiida.orm import Data
from aiida.orm.pydantic import OrmMetadataField


def attribute(name: str, description: str) -> Any:
    """A field of a node's ``AttributesModel``: ``Class.fields.attributes.NAME`` in queries."""
    return OrmMetadataField(
        description=description, read_only=True, orm_to_model=lambda node: cast(Data, node).base.attributes.get(name)
    )
