"""Is a crystal stable? Energy above the hull of competing phases, with its probability.

The package's function :func:`cgcnn_ase.stability.predictor.stability` has the name of this room, which is therefore
called as the function is: ``cgcnn_ase.stability(structures)``.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, structures: object, *options: Any, **named: Any) -> Any:
        from cgcnn_ase.stability.predictor import stability

        return stability(structures, *options, **named)


sys.modules[__name__].__class__ = _Room
