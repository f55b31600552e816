"""The label scheme of what an ASE calculator computed; a machine-learned potential is called what it is."""

from collections.abc import Mapping
from typing import Any

#: calculators that are no electronic structure, and what they are
_NO_FUNCTIONAL = {
    "emt": "empirical",
    "lj": "empirical",
    "morse": "empirical",
    "chgnet": "machine-learned",
    "mace_mp": "machine-learned",
    "mattersim": "machine-learned",
}
_MACHINE_LEARNED = ("chgnet", "mace", "matgl", "mattersim", "fairchem", "orb_models", "sevenn")


def scheme_of_job(settings: Mapping[str, Any], facts: Mapping[str, Any], *, spin: bool) -> dict[str, Any]:
    """The label scheme of a job.

    Parameters
    ----------
    settings
        Of the job, complete.
    facts
        What the worker wrote of the calculator.
    spin
        Whether it was spin-polarised.
    """
    name, parameters = settings["calculator"], settings["parameters"]
    scheme = {
        "engine": name,
        "engine_version": facts["version"],
        "functional": settings["functional"] or _functional(name, parameters),
        "hubbard_u": {},
        "pseudopotentials": facts.get("pseudopotentials", {}),
        "cutoffs": {},
        "kpoints_distance": settings["kpoints_distance"],
        "spin": spin,
        "relaxed": settings["task"] == "relax",
    }
    if name == "gpaw":
        scheme |= _of_gpaw(parameters)
    elif parameters:
        scheme["parameters"] = dict(parameters)
    return scheme


def _functional(name: str, parameters: Mapping[str, Any]) -> str:
    if name in _NO_FUNCTIONAL:
        return _NO_FUNCTIONAL[name]
    if name.startswith(_MACHINE_LEARNED):
        return "machine-learned"
    xc = parameters.get("xc", "LDA" if name == "gpaw" else "unknown")
    return str(xc["name"] if isinstance(xc, Mapping) else xc)


def _of_gpaw(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What GPAW's parameters say: cutoff, U, smearing, and what other than plane waves it used."""
    mode = parameters.get("mode", {})
    mode = mode if isinstance(mode, Mapping) else {"name": mode}
    result: dict[str, Any] = {
        "mode": mode.get("name", "fd"),
        "cutoffs": {"wave functions": float(mode.get("ecut", 340.0))} if mode.get("name") == "pw" else {},
        "hubbard_u": hubbard_of_setups(parameters.get("setups", {})),
        "smearing": dict(parameters.get("occupations", {})),
    }
    for name in ("h", "gpts", "basis", "charge"):
        if name in parameters:
            result[name] = parameters[name]
    return result


def hubbard_of_setups(setups: Any) -> dict[str, float]:
    """U (eV) by element of GPAW's ``setups``, as in ``{"Ni": "10:d,6.2"}``."""
    if not isinstance(setups, Mapping):
        return {}
    result = {}
    for element, text in setups.items():
        _, colon, correction = str(text).partition(":")
        if colon:
            result[element] = float(correction.split(";")[0].split(",")[1])
    return result
