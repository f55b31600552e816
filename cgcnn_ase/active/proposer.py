"""The optimiser as a configuration describes it: told of records, it proposes rounds."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
