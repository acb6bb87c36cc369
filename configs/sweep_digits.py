"""Short runs on digits: six of learning rate by window size, or as many as Optuna gets. To copy.

python -m experiments.sweep --config=configs/sweep_digits.py --workdir=runs/sweep --parallel=2
python -m experiments.search --config=configs/sweep_digits.py --workdir=runs/search --trials=10
"""

from acmix_jax.config import default_config


def get_config():
    config = default_config()
    config.model = "acmix_resnet14_stem1"
    config.data.mean = (0.305,)
    config.data.std = (0.376,)
    config.num_epochs = 4.0
    config.optimizer.warmup_epochs = 0.5
    config.eval_every = 0
    return config


def sweep():
    for window_size in (3, 7):
        for learning_rate in (0.01, 0.03, 0.1):
            yield {"acmix.window_size": window_size, "optimizer.learning_rate": learning_rate}


def search(trial):
    return {
        "acmix.window_size": trial.suggest_categorical("window_size", [3, 5, 7]),
        "optimizer.learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
    }
