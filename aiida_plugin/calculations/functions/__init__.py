"""Calculation functions: the steps that leave one node each in the provenance graph."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar, cast

T = TypeVar("T")


def each_run(make: Callable[[], T]) -> T:
    """Give the default of an input that AiiDA makes anew for each run."""
    return cast("T", make)


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203 - a handful
            continue
    return versions
