"""Training and fine-tuning of networks, with Lightning."""

from cgcnn_ase.training.finetune import finetune

__all__ = ["finetune"]
