"""Training of networks with Lightning, and :func:`finetune`."""

from cgcnn_ase.training.finetune import finetune

__all__ = ["finetune"]
