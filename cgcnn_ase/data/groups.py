"""Which samples of prepared data have the same composition and must not be parted."""

import numpy as np
import numpy.typing as npt

from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.crystal_graph import composition

_BATCH = 256


def composition_groups(data: PreparedData, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number for each of some samples, the same for equal compositions, (n,)."""
    fractions = np.concatenate(
        [composition(data.graphs.batch(rows[k : k + _BATCH].tolist())).numpy() for k in range(0, len(rows), _BATCH)]
    )
    _, group = np.unique(np.round(fractions, 5), axis=0, return_inverse=True)
    numbered: npt.NDArray[np.int64] = group.ravel()
    return numbered
