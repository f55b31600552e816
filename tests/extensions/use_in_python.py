"""Use each part of the example distribution in Python: ``use_in_python.py DATA CONFIG OUTPUT`` prints JSON."""

import json
import sys
from pathlib import Path

import numpy as np
from ase.build import bulk

from cgcnn_ase import load_model, predict
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.nn.architecture import ARCHITECTURES
from cgcnn_ase.optimization.acquisition import ACQUISITIONS, acquire
from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.oracles.base import ORACLES
from cgcnn_ase.optimization.surrogates.base import SURROGATES
from cgcnn_ase.sources.client import Query
from cgcnn_ase.sources.fetch import fetch
from cgcnn_ase.sources.registry import SOURCES, open_client
from cgcnn_ase.training.fit import fit

data, config, output = map(Path, sys.argv[1:])
NAMES = {
    "average": ARCHITECTURES, "cautious": ACQUISITIONS, "nearest": SURROGATES, "parabola": ORACLES, "shelf": SOURCES,
}  # fmt: skip

# the architecture
trained = fit(data, output / "run", target="ionicity", unit="eV", config=config / "train.yaml", val=0.25)
model = load_model(trained.model)
crystal = [bulk("MgO", "rocksalt", a=4.21)]
before = predict(model, crystal).to_frame()
after = predict(save_model(model, output / "saved"), crystal).to_frame()

# acquisition, surrogate and oracle; the source
result = optimise(config / "optimise.yaml", output / "search")
fetched = fetch(open_client("shelf"), Query(), output / "fetched", fields=["band_gap"], cache=output / "cache")

print(json.dumps({
    "registered": {name: registry.get(name).__module__ for name, registry in NAMES.items()},
    "architecture": model.members[0].config.architecture.architecture,
    "is_calibrated": model.calibration is not None,
    "n_val": trained.metrics["val"]["n"],
    "same": bool(np.array_equal(before[["value", "std"]], after[["value", "std"]])),
    "chosen_by": [record.chosen_by for record in result.records],
    "best": result.best.point,
    "oracle": result.oracle["what"],
    "acquired": acquire("cautious", [1.0, 2.0], [0.5, 0.1]).tolist(),
    "n_fetched": fetched.n_records,
    "provider": fetched.provider,
}))  # fmt: skip
