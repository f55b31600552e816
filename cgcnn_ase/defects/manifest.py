"""Record of how a defect was made: a row of plain values that travels with the structure."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import inf, isfinite
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args, get_origin

from cgcnn_ase.core.environment import package_version

# the key in ``atoms.info``
KEY = "defect"


def generator_name() -> str:
    """Maker of a structure: ``cgcnn_ase`` and its version."""
    return f"cgcnn_ase {package_version()}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a defective structure was made from its host."""

    id: str  # unique among the defects of one host
    # host, host_sha256: name of the host; hash of its elements, cell and positions (to 0.001 Å), see `host_hash`
    host: str
    host_sha256: str
    # ``vacancy``, ``antisite``, ``substitution``, ``interstitial``, ``cation-mixing``, ``complex``,
    # ``random-vacancy``
    kind: str
    defect: str  # ``v_Li``, ``Ni_Li`` (nickel on a lithium site), ``Li_i``, ``Li_Ni+Ni_Li``
    site_index: int | None = None  # the (first) site, counted in the host; None for an interstitial
    # all sites that were emptied or replaced, counted in the supercell before anything was removed
    sites: tuple[int, ...] = ()
    position: tuple[float, ...] = ()  # Cartesian position of the (first) defect in the supercell, Å
    # removed, added: element symbols, one for each atom taken away or put in
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    wyckoff: str = ""  # Wyckoff letter of the (first) site; empty where there is none
    multiplicity: int = 1  # equivalent defects in the host cell (of random vacancies: 1)
    # the supercell's vectors in those of the host, rows after one another
    supercell: tuple[int, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    image_distance: float = inf  # from the defect to its nearest periodic image, Å, not counting those across a vacuum
    distance: float | None = None  # the largest distance between two sites of a pair or complex, Å
    charge: int = 0  # charge of this structure, in elementary charges
    charges: tuple[int, ...] = ()  # charge states that are likely, guessed; empty where none were asked for
    oxidation_state: int | None = None  # of the defect, guessed; None where none was asked for
    distortion: str = ""  # local distortion in words; empty where there is none
    seed: int | None = None  # of all that is random; None where nothing is
    generator: str = ""  # ``cgcnn_ase`` and its version
    # formula, n_atoms: of the defective supercell
    formula: str = ""
    n_atoms: int = 0

    def to_info(self) -> dict[str, dict[str, Any]]:
        """For ``atoms.info.update``: one key, `KEY`, with plain values that extended XYZ and ASE databases keep."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        plain["image_distance"] = self.image_distance if isfinite(self.image_distance) else None
        return {KEY: plain}

    @classmethod
    def from_info(cls, info: Mapping[str, object]) -> "Manifest":
        """The manifest in ``atoms.info``; none, or one that is not of this package, is a `ValueError`."""
        plain = info.get(KEY)
        if not isinstance(plain, Mapping):
            raise ValueError(f"atoms.info has no {KEY!r}: the structure was not made by cgcnn_ase.defects")
        unknown = sorted(set(plain) - set(COLUMNS))
        missing = sorted({"id", "host", "host_sha256", "kind", "defect"} - set(plain))
        if unknown or missing:
            which = f"unknown {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
            raise ValueError(f"atoms.info[{KEY!r}] is no manifest of a defect: {which}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list | tuple) else value for name, value in plain.items()
        }
        if values.get("image_distance") is None:
            values["image_distance"] = inf
        return cls(**values)

    def to_row(self) -> dict[str, str]:
        """As text for a CSV file: lists with spaces between, nothing for None."""
        return {name: _to_text(value) for name, value in asdict(self).items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "Manifest":
        """The inverse of `to_row`."""
        values: dict[str, Any] = {field.name: _from_text(row[field.name], field.type) for field in fields(cls)}
        return cls(**values)


# the columns of ``manifest.csv``
COLUMNS = tuple(field.name for field in fields(Manifest))


def _from_text(text: str, hint: object) -> object:
    """The value of a column from its text, by the type of the field."""
    kinds = get_args(hint) or (hint,)
    read = cast("Callable[[str], object]", kinds[0])
    if get_origin(hint) is tuple:
        return tuple(map(read, text.split()))
    return None if NoneType in kinds and not text else read(text)


def _to_text(value: object) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def write_manifest(path: str | Path, manifests: Iterable[Manifest]) -> Path:
    """Write ``manifest.csv``, one row a defect, each as soon as it comes."""
    path = Path(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for manifest in manifests:
            writer.writerow(manifest.to_row())
    return path


def read_manifest(path: str | Path) -> list[Manifest]:
    """Read what `write_manifest` wrote.

    Raises
    ------
    ValueError
        If a column is missing or a value cannot be read, with the line.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: is no manifest of defects: it has no column {', '.join(missing)}")
        manifests = []
        for row in reader:
            try:
                manifests.append(Manifest.from_row(row))
            except (ValueError, TypeError, AttributeError) as error:  # noqa: PERF203 - a line cut off has None for its last columns
                raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
        return manifests
