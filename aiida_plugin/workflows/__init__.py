"""Work chains: shards, labels by DFT, screening, fine-tuning, active learning."""
