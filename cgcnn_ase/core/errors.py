"""What is wrong with a data set, and with a request for one."""


class DatasetError(ValueError):
    """A data set that cannot be read as it is; the message names the file and what is wrong."""


class FetchError(ValueError):
    """A database that did not give what it was asked for; the message says why, in words.

    Parameters
    ----------
    words
        What happened, on one line, without any key.
    again
        Whether the same request may succeed a moment later (too many requests, a server's own failure, a timeout, an
        answer cut off) or never will (a wrong key, a request that is not understood).
    after
        Seconds that the server asked to wait (``Retry-After``), None where it did not say.
    """

    def __init__(self, words: str, *, again: bool = False, after: float | None = None) -> None:
        super().__init__(words)
        self.again = again
        self.after = after
