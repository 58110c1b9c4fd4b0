"""Training: losses, the loop and its checkpoints."""
