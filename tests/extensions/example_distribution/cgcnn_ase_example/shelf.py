"""A source of reference data: three crystals that are always there."""

from collections.abc import Iterator, Sequence

from ase.build import bulk

from cgcnn_ase.sources.client import Attribution, FetchedRecord, Page, Query, Retry, SourceOptions, with_retries

# structure, lattice constant (Å) and band gap (eV)
CRYSTALS = {"Si": ("diamond", 5.43, 1.1), "Ge": ("diamond", 5.66, 0.7), "MgO": ("rocksalt", 4.21, 7.8)}


class Shelf:
    """The client of the shelf, which needs no network."""

    name = "shelf"
    url = "https://example.org/shelf"
    settings: dict[str, str] = {}  # what decides beside the query what comes back; never a key
    units = {"band_gap": "eV"}  # what it knows, in our names

    def version(self, *, retry: Retry = with_retries) -> str:
        """Name the state of the shelf."""
        return "2026-11"

    def pages(
        self, query: Query, fields: Sequence[str], *, after: str | None = None, retry: Retry = with_retries
    ) -> Iterator[Page]:
        """Yield the crystals that the query names, on one page."""
        records = tuple(
            FetchedRecord(name, bulk(name, shape, a), {"band_gap": gap}, {"functional": "experiment"})
            for name, (shape, a, gap) in CRYSTALS.items()
            if name in (query.formula or CRYSTALS)
        )
        yield Page(records, refused=(), cursor="end", total=len(records))

    def credit(self, fields: Sequence[str]) -> Attribution:
        """Name the owner, and how to cite."""
        return Attribution("the shelf", "CC0", ("A. Author, On shelves (2026)",), "cgcnn-ase-example 1.0")


def open_shelf(options: SourceOptions) -> Shelf:
    """Return the client, or raise ValueError for what the shelf cannot be asked."""
    if other := sorted(set(options.query.as_dict()) - {"formula"}):
        raise ValueError(f"the shelf can be asked for formulas only, not by {other[0]}")
    return Shelf()
