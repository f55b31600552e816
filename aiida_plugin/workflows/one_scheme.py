"""Labels that are of one kind, out of some that are not (a run that converged only with a wider smearing, say)."""

from collections.abc import Mapping
from typing import Any

from aiida_plugin.data.label_scheme import merge_schemes


def largest_group(schemes: Mapping[str, Mapping[str, Any] | None]) -> tuple[list[str], dict[str, str]]:
    """The most labels that are of one kind, and of each other one in what it differs from them.

    Parameters
    ----------
    schemes
        The label scheme by name of the label.
    """
    groups: list[tuple[list[str], dict[str, Any] | None]] = []
    for name, scheme in schemes.items():
        for k, (members, merged) in enumerate(groups):
            if _reason(merged, scheme) is None:
                groups[k] = ([*members, name], merge_schemes([merged, scheme]))
                break
        else:
            groups.append(([name], merge_schemes([scheme])))
    if not groups:
        return [], {}
    alike, merged = max(groups, key=lambda group: len(group[0]))
    others = [name for members, _ in groups for name in members if name not in alike]
    return alike, {name: str(_reason(merged, schemes[name])) for name in others}


def _reason(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str | None:
    """In what two schemes differ, None if they do not."""
    try:
        merge_schemes([one, other])
    except ValueError as error:
        return str(error)
    return None
