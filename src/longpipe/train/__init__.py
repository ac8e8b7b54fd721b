"""Training: the config tree, optimizer, checkpoints and metrics around a runtime."""
