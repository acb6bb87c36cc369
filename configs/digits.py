"""The quickstart: a small ACmix-ResNet on 1,797 scanned digits.

python main.py --config=configs/digits.py --workdir=runs/digits

Expected: 98.9 % top-1 on the 360 test images, in about a minute on two CPU cores.
"""

from acmix_jax.config import default_config


def get_config():
    config = default_config()
    config.model = "acmix_resnet14_stem1"
    config.data.source = "digits"
    config.data.num_classes = 10
    config.data.mean = (0.305,)
    config.data.std = (0.376,)
    config.data.shift = 1
    config.batch_size = 64
    config.num_epochs = 40.0
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 5e-4
    config.eval_every = 225
    config.checkpoint_every = 225
    return config
