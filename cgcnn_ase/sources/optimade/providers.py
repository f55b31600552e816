"""OPTIMADE providers by name: where they are, their licence and citation, and what they call our properties.

A name is `documented` where the provider's own documentation or server code has it, `seen` where several programs that
read the provider rely on it, and `assumed` where we found no more than a hint. None of it can be checked without the
network; a server that states another unit for a field than we know is refused when it is asked
(`cgcnn_ase.sources.optimade.server.check_units`).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from cgcnn_ase.sources.units import conversion

Evidence = Literal["documented", "seen", "assumed", "user"]


@dataclass(frozen=True)
class ProviderProperty:
    """What a provider calls one of our properties.

    Attributes
    ----------
    field
        Its name there, ``_prefix_name``; ``.`` steps into a dictionary.
    unit
        Its unit there, as `cgcnn_ase.sources.units.conversion` reads it.
    evidence
        How we know.
    at_least
        Smaller values of the provider mean this one of ours: OQMD computes negative distances to the hull for compounds
        on it, the distance to the hull of all others.
    """

    field: str
    unit: str
    evidence: Evidence = "assumed"
    at_least: float | None = None

    @property
    def top(self) -> str:
        """The property of the response that holds it."""
        return self.field.partition(".")[0]


@dataclass(frozen=True)
class Provider:
    """One database behind an OPTIMADE server.

    Attributes
    ----------
    name, title, url
        Name on the command line, full name, base URL (without ``/v1``).
    licence, citation
        Of the data; an empty licence is asked of the server.
    properties
        By our names.
    words
        What is the same for all its records: functional, corrections.
    page_limit
        Records asked for at once.
    missing
        Values that stand for "not computed".
    """

    name: str
    title: str
    url: str
    licence: str = ""
    citation: tuple[str, ...] = ()
    properties: Mapping[str, ProviderProperty] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    page_limit: int = 100
    missing: tuple[float | str, ...] = ()

    def __post_init__(self) -> None:
        """Check that every unit can be converted."""
        for name, known in self.properties.items():
            conversion(name, known.unit)


def find_provider(name: str) -> Provider:
    """The provider of a name, or one that is known by the URL of its server only.

    Raises
    ------
    ValueError
        If there is none; the message lists them. Or if the URL is none, or holds a user, a key or a filter.
    """
    if "://" in name:
        return _at(name)
    if name in PROVIDERS:
        return PROVIDERS[name]
    near = difflib.get_close_matches(name, PROVIDERS, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(
        f"provider {name!r}: no such OPTIMADE provider{guess}; allowed are {', '.join(PROVIDERS)} and a URL"
    )


def _at(url: str) -> Provider:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"provider {parts.scheme}://{parts.hostname or ''}{parts.path}: needed is the base URL of an OPTIMADE "
            "server, http(s)://host/path and nothing else"
        )
    base = parts.netloc + parts.path.rstrip("/").removesuffix("/structures").removesuffix("/v1")
    return Provider(name=base, title=base, url=f"{parts.scheme}://{base}")


def _alexandria(name: str, functional: str, path: str, infix: str, citation: tuple[str, ...]) -> Provider:
    """Alexandria's SCAN values are fields of its PBEsol records: single points at the PBEsol geometry."""

    def prop(field: str, unit: str) -> ProviderProperty:
        return ProviderProperty(f"_alexandria_{infix}{field}", unit, "seen")

    return Provider(
        name=name,
        title=f"Alexandria ({functional})",
        url=f"https://alexandria.icams.rub.de/{path}",
        licence="CC BY 4.0",
        citation=citation,
        properties={
            "formation_energy_per_atom": prop("formation_energy_per_atom", "eV/atom"),
            "energy_above_hull": prop("hull_distance", "eV/atom"),
            "energy_per_atom": prop("energy_corrected", "eV/cell"),
            "uncorrected_energy_per_atom": prop("energy", "eV/cell"),
            "band_gap": prop("band_gap", "eV"),
            "total_magnetization": prop("magnetization", "mu_B"),
        },
        words={"functional": functional},
    )


def _materials_project(name: str, key: str, functional: str) -> Provider:
    """The Materials Project's OPTIMADE server keeps one entry for each correction scheme in ``_mp_stability``."""
    return Provider(
        name=name,
        title=f"Materials Project through OPTIMADE ({key.upper()})",
        url="https://optimade.materialsproject.org",
        licence="CC BY 4.0",
        citation=("Jain et al., APL Mater. 1, 011002 (2013), doi:10.1063/1.4812323",),
        properties={
            "formation_energy_per_atom": ProviderProperty(
                f"_mp_stability.{key}.formation_energy_per_atom", "eV/atom", "seen"
            ),
            "energy_above_hull": ProviderProperty(f"_mp_stability.{key}.energy_above_hull", "eV/atom", "seen"),
        },
        words={"functional": functional, "thermo_type": key.upper()},
    )


def _mc3d(name: str, functional: str, version: str) -> Provider:
    return Provider(
        name=name,
        title=f"Materials Cloud three-dimensional structure database ({functional})",
        url=f"https://optimade.materialscloud.org/main/mc3d-{version}",
        licence="CC BY 4.0",
        citation=(
            "Huber et al., arXiv:2508.19223 (2025)",
            "Materials Cloud Archive, doi:10.24435/materialscloud:rw-t0",
        ),
        properties={
            "energy_per_atom": ProviderProperty("_mcloud_total_energy", "eV/cell", "seen"),
            "total_magnetization": ProviderProperty("_mcloud_total_magnetization", "mu_B", "assumed"),
            "volume": ProviderProperty("_mcloud_cell_volume", "Å^3", "seen"),
        },
        words={"functional": functional, "pseudopotentials": "SSSP"},
        page_limit=50,
    )


_ALEXANDRIA_PBE = (
    "Schmidt et al., Adv. Mater. 35, 2210788 (2023), doi:10.1002/adma.202210788",
    "Schmidt et al., Mater. Today Phys. 48, 101560 (2024), doi:10.1016/j.mtphys.2024.101560",
)
_ALEXANDRIA_PBESOL = ("Schmidt et al., Sci. Data 9, 64 (2022), doi:10.1038/s41597-022-01177-w",)

_ALL = (
    Provider(
        name="oqmd",
        title="Open Quantum Materials Database",
        url="https://oqmd.org/optimade",
        licence="CC BY 4.0",
        citation=(
            "Saal et al., JOM 65, 1501 (2013), doi:10.1007/s11837-013-0755-4",
            "Kirklin et al., npj Comput. Mater. 1, 15010 (2015), doi:10.1038/npjcompumats.2015.10",
        ),
        properties={
            "formation_energy_per_atom": ProviderProperty("_oqmd_delta_e", "eV/atom", "documented"),
            "energy_above_hull": ProviderProperty("_oqmd_stability", "eV/atom", "documented", at_least=0.0),
            "band_gap": ProviderProperty("_oqmd_band_gap", "eV", "documented"),
            "volume": ProviderProperty("_oqmd_volume", "Å^3", "seen"),
        },
        words={"functional": "PBE and PBE+U", "corrections": "OQMD"},
    ),
    Provider(
        name="jarvis",
        title="JARVIS-DFT",
        url="https://jarvis.nist.gov/optimade/jarvisdft",
        licence="NIST public data, see https://jarvis.nist.gov",
        citation=("Choudhary et al., npj Comput. Mater. 6, 173 (2020), doi:10.1038/s41524-020-00440-1",),
        properties={
            "formation_energy_per_atom": ProviderProperty("_jarvis_formation_energy_peratom", "eV/atom", "seen"),
            "energy_above_hull": ProviderProperty("_jarvis_ehull", "eV/atom", "seen"),
            "band_gap": ProviderProperty("_jarvis_optb88vdw_bandgap", "eV", "seen"),
            "energy_per_atom": ProviderProperty("_jarvis_optb88vdw_total_energy", "eV/atom", "seen"),
            "total_magnetization": ProviderProperty("_jarvis_magmom_outcar", "mu_B", "assumed"),
            "density": ProviderProperty("_jarvis_density", "g/cm^3", "seen"),
        },
        words={"functional": "OptB88vdW"},
        page_limit=50,
        missing=(-99999.0, "-99999", "na"),
    ),
    Provider(
        name="aflow",
        title="AFLOW",
        url="https://aflow.org/API/optimade",
        licence="see https://aflow.org",
        citation=("Curtarolo et al., Comput. Mater. Sci. 58, 227 (2012), doi:10.1016/j.commatsci.2012.02.002",),
        properties={
            "formation_energy_per_atom": ProviderProperty("_aflow_enthalpy_formation_atom", "eV/atom", "assumed"),
            "energy_per_atom": ProviderProperty("_aflow_energy_atom", "eV/atom", "assumed"),
            "band_gap": ProviderProperty("_aflow_egap", "eV", "assumed"),
        },
        words={"functional": "PBE and PBE+U", "corrections": "AFLOW"},
        page_limit=50,
    ),
    _alexandria("alexandria", "PBE", "pbe", "", _ALEXANDRIA_PBE),
    _alexandria("alexandria-pbesol", "PBEsol", "pbesol", "", _ALEXANDRIA_PBESOL),
    _alexandria("alexandria-scan", "SCAN on PBEsol geometries", "pbesol", "scan_", _ALEXANDRIA_PBESOL),
    _mc3d("mc3d", "PBEsol", "pbesol-v2"),
    _mc3d("mc3d-pbe", "PBE", "pbe-v1"),
    _materials_project("mp-optimade", "gga_gga+u", "PBE and PBE+U"),
    _materials_project("mp-optimade-r2scan", "r2scan", "r2SCAN"),
    _materials_project("mp-optimade-mixed", "gga_gga+u_r2scan", "PBE, PBE+U and r2SCAN mixed"),
)

#: the providers by name
PROVIDERS: dict[str, Provider] = {known.name: known for known in _ALL}
