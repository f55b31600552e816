"""Where fetched data came from, and how to credit it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Credit(NamedTuple):
    """Whose data it is."""

    provider: str
    licence: str
    citations: tuple[str, ...]
    client: str  #: package and version


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a data set came from and how to credit it; no key is in it."""

    provider: str
    url: str
    database_version: str
    licence: str
    citations: tuple[str, ...]
    settings: Mapping[str, str]  #: how the client was set up, as its ``thermo_type``
    query: Mapping[str, Any]
    fields: tuple[str, ...]
    units: Mapping[str, str]  #: of the fields
    client: str  #: package and version
    retrieved: str  #: ISO 8601, UTC: when the first page came
    n_records: int
    n_refused: int
    n_doubled: int = 0  #: records that came more than once and were kept once

    def as_dict(self) -> dict[str, Any]:
        """All of it, in a form that JSON can take."""
        return asdict(self) | {"citations": list(self.citations), "fields": list(self.fields)}

    def write(self, folder: Path) -> None:
        """Write ``provenance.json`` for machines and ``README.md`` for people."""
        text = json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        (folder / "provenance.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(self._readme(), encoding="utf-8")

    def _readme(self) -> str:
        columns = [f"- `{name}`" + (f" ({self.units[name]})" if self.units[name] else "") for name in self.fields]
        settings = [f"{name} {value}" for name, value in self.settings.items()]
        state = ", ".join([f"database version {self.database_version}", *settings])
        refused = f"{self.n_refused} more could not be used (see `refused.csv`). " if self.n_refused else ""
        doubled = f"{self.n_doubled} came more than once and were kept once. " if self.n_doubled else ""
        return "\n".join(
            [
                f"# {self.n_records} structures from {self.provider}",
                "",
                f"Fetched from {self.url} ({state}) at {self.retrieved} with {self.client}. {refused}{doubled}",
                "",
                f"Query: `{json.dumps(dict(self.query), ensure_ascii=False)}`",
                "",
                f"Licence: {self.licence}. Cite:",
                "",
                *(f"- {citation}" for citation in self.citations),
                "",
                "`structures.npz` holds the structures, `properties.csv.gz` a row for each in the same order; an empty",
                "field means that the database has no value. `cgcnn-ase train` reads this folder. Columns:",
                "",
                *columns,
                "",
            ]
        )
