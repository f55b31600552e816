"""All that decides a training run."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.network import AnyConfig, check_graph

Loss = Literal["l1", "huber", "mse"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyper-parameters of a run; the same configuration and data give the same weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    graph: GraphConfig = field(default_factory=GraphConfig)
    network: AnyConfig = field(default_factory=CGCNNConfig)
    mean_variance: bool = False
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3  #: the maximum of the one-cycle schedule
    weight_decay: float = 1e-2  #: of AdamW; none on norms, biases and embeddings
    loss: Loss = "l1"
    gradient_clip: float | None = 10.0
    ema_decay: float | None = None  #: exponential moving average of the weights, per step
    patience: int | None = None  #: stop after so many epochs without a better val error
    seed: int = 0
    n_members: int = 1
    error_folds: int = 0  #: networks trained on parts of the training split, to learn where errors are large; 0 or >= 2
    engine: Engine = "auto"
    compile: bool = False  #: torch.compile; needs a C++ compiler on the CPU, uses the torch engine

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.n_members) < 1:
            raise ValueError(f"epochs, batch_size and n_members must be at least 1: {self}")
        if self.error_folds < 0 or self.error_folds == 1:
            raise ValueError(f"error_folds must be 0 or at least 2, not {self.error_folds}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        check_graph(self.network, self.graph)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in ``config.yaml``."""
        return asdict(self)
