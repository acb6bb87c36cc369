"""`--mode=inspect`: writes pictures and a table of what a run learned into its workdir."""

from pathlib import Path

from acmix_jax.analysis import alpha_beta, curves
from acmix_jax.evaluators import best_metric
from acmix_jax.weights.stored import read_trainable


def inspect_checkpoint(config, folder: Path, which: str) -> str:
    """Writes curves.png and, for a model with ACmix layers, alpha_beta.csv and .png of a checkpoint; lists the files.

    Args:
      config: the run's config.
      folder: its workdir.
      which: "latest", "best" or a step.

    Raises:
      UserError: no such checkpoint.
    """
    step, variables = read_trainable(folder, which, best_metric(config))
    title = f"{config.model} on {config.data.source}"
    written = [curves.write(title, folder)]
    layers = alpha_beta.read(variables["params"])
    if layers:
        written += alpha_beta.write(layers, f"{title}, step {step}", folder)
    return "\n".join([f"{config.model} at step {step}, {len(layers)} ACmix layers:", *(f"  {p}" for p in written if p)])
