"""Calculation functions: the steps that leave one node each in the provenance graph."""

from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar, cast

T = TypeVar("T")


def node_default(value: dict[str, str] | str, kind: type[T]) -> T:  # noqa: ARG001 - for the type checker
    """Give the default of an input of this kind of node: the plain value, of which AiiDA makes a node for each run.

    A function that makes the node would do for AiiDA alone; what reads signatures, aiida-workgraph for one, knows
    values and nodes only.
    """
    return cast("T", value)


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - a handful
            continue
    return versions
