"""Asking again: what is repeated, how long is waited, and what is told."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from cgcnn_ase.core.errors import FetchError
from cgcnn_ase.sources.client import retry_after, with_retries


class Flaky:
    """Fails as it is told, then gives 42."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 42


def test_waits_grow_and_are_the_same_for_the_same_seed():
    def waits(seed):
        seen = []
        with_retries(Flaky(*[FetchError("busy", again=True)] * 4), seed=seed, sleep=seen.append)
        return seen

    first = waits(1)
    assert len(first) == 4
    for wait, longest in zip(first, (0.5, 1.0, 2.0, 4.0), strict=True):
        assert longest / 2 <= wait <= longest
    assert waits(1) == first
    assert waits(2) != first


def test_a_server_that_names_a_time_is_waited_for():
    seen = []
    assert with_retries(Flaky(FetchError("busy", again=True, after=7.0)), sleep=seen.append) == 42
    assert seen == [7.0]
    with_retries(Flaky(FetchError("busy", again=True, after=1e6)), sleep=seen.append, longest_wait=6.0)
    assert seen[1] == 60.0


def test_what_will_never_succeed_is_not_repeated():
    call = Flaky(FetchError("wrong key"))
    with pytest.raises(FetchError, match="^wrong key$"):
        with_retries(call, sleep=lambda _: None)
    assert call.calls == 1


def test_gives_up_after_so_many_attempts_and_tells_of_each():
    told = []
    call = Flaky(*[FetchError("busy", again=True)] * 9)
    with pytest.raises(FetchError, match=r"^busy \(given up after 3 attempts\)$"):
        with_retries(call, attempts=3, sleep=lambda _: None, say=told.append)
    assert call.calls == 3
    assert [line.partition(" in ")[0] for line in told] == ["busy; attempt 2 of 3", "busy; attempt 3 of 3"]
    with pytest.raises(ValueError, match="attempts=0: at least 1"):
        with_retries(call, attempts=0)


def test_other_errors_are_not_caught():
    with pytest.raises(ZeroDivisionError):
        with_retries(Flaky(ZeroDivisionError()), sleep=lambda _: None)


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("3", 3.0), (" 12 ", 12.0), ("soon", None)])
def test_retry_after_in_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    later = datetime.now(timezone.utc) + timedelta(seconds=90)
    assert retry_after(format_datetime(later, usegmt=True)) == pytest.approx(90, abs=3)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
