"""Everything about a run except its computation: folder, checkpoints, metrics, progress, signals and environment."""
