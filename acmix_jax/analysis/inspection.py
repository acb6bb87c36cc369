"""`--mode=inspect`: writes pictures and a table of what a run learned."""

from pathlib import Path

from acmix_jax.analysis import alpha_beta, curves
from acmix_jax.errors import UserError
from acmix_jax.evaluators import best_metric
from acmix_jax.run.metrics import read_metrics
from acmix_jax.weights.stored import read_trainable


def inspect_checkpoint(config, folder: Path, which: str, out: Path | None = None) -> str:
    """Writes curves.png and, for a model with ACmix layers, alpha_beta.csv and .png of a checkpoint; lists the files.

    Args:
      config: the run's config.
      folder: its workdir.
      which: "latest", "best" or a step.
      out: the folder to write to; default: the workdir, which is not changed otherwise.

    Raises:
      UserError: no such checkpoint, or `out` cannot be written.
    """
    out = folder if out is None else out
    step, variables = read_trainable(folder, which, best_metric(config))
    title = f"{config.model} on {config.data.source}"
    layers = alpha_beta.read(variables["params"])
    rows = read_metrics(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = [curves.write(rows, title, out, best_metric(config))]
        if layers:
            written += alpha_beta.write(layers, f"{title}, step {step}", out)
    except OSError as error:
        raise UserError(f"cannot write to {str(out)!r} ({error}); set another --out=DIR") from error
    return "\n".join([f"{config.model} at step {step}, {len(layers)} ACmix layers:", *(f"  {p}" for p in written if p)])
