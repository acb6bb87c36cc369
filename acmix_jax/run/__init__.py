"""The life of a run outside the arithmetic: its folder, checkpoints, metrics, progress, signals and environment."""
