"""The pages of one answer of an OPTIMADE server, one after the other, and where to go on."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import CursorError, Page, Query, as_mapping
from cgcnn_ase.sources.optimade.filter import QueryMatcher
from cgcnn_ase.sources.optimade.providers import Provider
from cgcnn_ase.sources.optimade.server import OptimadeServer
from cgcnn_ase.sources.optimade.structures import read_records
from cgcnn_ase.sources.retry import Retry

# seconds between two requests at most, whatever the server asks for
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Position:
    """Position in an answer: the query string of the next page, none at the end, and what came before."""

    part: int  # of a question with many ids
    next: str
    sent: int = 0  # of this part
    kept: int = 0  # of all parts

    def text(self) -> str:
        """As a cursor."""
        return json.dumps([self.part, self.next, self.sent, self.kept])

    @classmethod
    def read(cls, cursor: str) -> "Position":
        """From a cursor, or a `CursorError`."""
        try:
            part, following, sent, kept = json.loads(cursor)
            return cls(int(part), str(following), int(sent), int(kept))
        except (ValueError, TypeError):
            raise CursorError(f"cursor {cursor!r} is none of an OPTIMADE answer") from None


@dataclass(frozen=True)
class QueryResult:
    """The answer to one question, in one part or several (of many ids)."""

    server: OptimadeServer
    provider: Provider
    query: Query
    fields: tuple[str, ...]  # our properties that the records shall hold
    matcher: QueryMatcher
    parts: Sequence[str]  # query string of the first page of each
    retry: Retry
    sleep: Callable[[float], None]
    own_limit: bool  # whether the page size is the user's, and not to be changed

    def pages(self, at: Position, *, resumed: bool) -> Iterator[Page]:
        """The pages from a position on; `resumed` says that an earlier reading reached it."""
        pause, limit = 0.0, self.query.limit
        warned: set[str] = set()
        while at.next:
            if pause:
                self.sleep(pause)
            body = self._page(at, resumed=resumed)
            resumed = False
            data, meta = _structures(body), as_mapping(body.get("meta"))
            self._pass_on(meta.get("warnings"), warned)
            records, refused = read_records(data, self.provider, self.fields, self.matcher)
            if limit is not None:
                records = records[: limit - at.kept]
            returned, delay = meta.get("data_returned"), meta.get("request_delay")
            total = returned if isinstance(returned, int) else None
            before = at
            at = Position(at.part, self.server.next(body), at.sent + len(data), at.kept + len(records))
            if limit is not None and at.kept >= limit:
                at = replace(at, next="")
            elif not at.next or not data:
                self._check_end(at.sent, total, bool(meta.get("more_data_available")) and bool(data))
                following = at.part + 1
                at = Position(following, self.parts[following] if following < len(self.parts) else "", 0, at.kept)
            elif at.next == before.next:
                raise FetchError(f"{self.provider.url}: the link to the next page leads to the same page again")
            yield Page(tuple(records), tuple(refused), at.text(), self._total(total))
            pause = min(float(delay) if isinstance(delay, int | float) else 0.0, _LONGEST_PAUSE)

    def _page(self, at: Position, *, resumed: bool) -> Mapping[str, object]:
        """The answer at a position; a link of an earlier day that the server refuses is a `CursorError`."""

        def ask() -> Mapping[str, object]:
            try:
                return self.server.get("structures", at.next)
            except FetchError as error:
                if resumed and not error.again:
                    raise CursorError(f"{error}: it cannot go on where it was") from error
                if error.again or self.own_limit or "page_limit" not in str(error):
                    raise
                parts = [part for part in at.next.split("&") if not part.startswith("page_limit=")]
                return self.server.get("structures", "&".join(parts))  # as many as the server likes

        body = self.retry(ask)
        if not isinstance(body.get("data"), list):
            raise FetchError(f"{self.provider.url}: the answer holds no list of structures")
        return body

    def _pass_on(self, told: object, warned: set[str]) -> None:
        """Warn of what the server warns of, each once: a part of the filter that it does not know, for one."""
        for each in map(as_mapping, told if isinstance(told, list) else ()):
            words = " ".join(str(each.get("detail") or each.get("title")).split())[:300]
            if words not in warned:
                warned.add(words)
                warnings.warn(f"{self.provider.name}: the server warns: {words}", stacklevel=3)

    def _check_end(self, sent: int, total: int | None, more: bool) -> None:
        """Refuse an answer that is shorter than the server announced."""
        if more:
            raise FetchError(
                f"{self.provider.url}: the server says there is more than {sent} records, but gives no link to it"
            )
        if total is not None and sent < total:
            raise FetchError(f"{self.provider.url}: the server announced {total} records and sent {sent}; fetch again")

    def _total(self, told: int | None) -> int | None:
        """Records in the whole answer, from what the server told of one part."""
        if told is None or len(self.parts) > 1:
            return None
        return told if self.query.limit is None else min(told, self.query.limit)


def _structures(body: Mapping[str, object]) -> list[object]:
    """The resources of an answer that was seen to hold a list of them."""
    data = body["data"]
    assert isinstance(data, list)
    return data
