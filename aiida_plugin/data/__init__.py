"""AiiDA's nodes of structures, models and predictions, and what their fields share."""

from typing import Any, cast

from aiida.orm import Data
from aiida.orm.pydantic import OrmMetadataField

_REQUIRED = object()


def attribute(name: str, description: str, default: object = _REQUIRED) -> Any:
    """A field of a node's ``AttributesModel``: ``Class.fields.attributes.NAME`` in queries.

    An attribute with a `default` may be missing of a node.
    """
    missing = () if default is _REQUIRED else (default,)
    return OrmMetadataField(
        description=description,
        read_only=True,
        orm_to_model=lambda node: cast(Data, node).base.attributes.get(name, *missing),
    )
