"""The networks learn what can be learned."""

import pytest

from cgcnn_ase.nn.messages import dgl_available
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.member import train_member

GATED = {"convolution": "gated", "norm": "batch", "activation": "softplus"}
EDGE_MESSAGE = {"convolution": "edge-message", "norm": "layer", "activation": "silu"}
NO_DGL = pytest.mark.skipif(not dgl_available(), reason="no DGL here")


@pytest.mark.parametrize(
    ("network", "engine"),
    [
        pytest.param(GATED, "dgl", marks=NO_DGL, id="gated-dgl"),
        pytest.param(EDGE_MESSAGE, "torch", id="edge-message-torch"),
        pytest.param(GATED, "torch", marks=pytest.mark.slow, id="gated-torch"),
        pytest.param(EDGE_MESSAGE, "dgl", marks=[NO_DGL, pytest.mark.slow], id="edge-message-dgl"),
    ],
)
def test_val_error_drops_fivefold(make_data, tiny, tmp_path, network, engine):
    data = make_data(n_train=256)
    spread = abs(data.targets[data.rows("val")] - data.targets[data.rows("train")].mean()).mean()
    config = tiny(n_features=16, n_hidden=32, n_gaussians=24, epochs=20, learning_rate=1e-2, engine=engine, **network)
    train_member(data, config, tmp_path, progress=False)
    errors = [float(row["val_error"]) for row in read_history(tmp_path / "history.csv")]
    assert min(errors) < spread / 5
