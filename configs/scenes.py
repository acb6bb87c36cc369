"""Semantic segmentation of scenes composed of scanned digits, made while training, without a download.

python main.py --config=configs/scenes.py --workdir=runs/scenes
python main.py --config=configs/scenes.py:resnet20_stem2 --workdir=runs/scenes_plain
"""

from acmix_jax.config import default_config


def get_config(model="acmix_resnet20_stem2"):
    config = default_config()
    config.task = "segmentation"
    config.model = model
    config.head = "semantic_fpn"
    config.head_width = 64
    config.classifier_std = 0.2  # without pretrained weights
    config.auxiliary_weight = 0.0
    config.photometric = False
    config.data.source = "scenes"
    config.data.mean = (0.35,)
    config.data.std = (0.22,)
    config.data.image_size = 32
    config.batch_size = 16
    config.num_epochs = 2.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.warmup_epochs = 0.05
    config.optimizer.warmup_start = 0.01
    config.optimizer.weight_decay = 0.05
    config.log_every = 125
    config.eval_every = 1000
    config.checkpoint_every = 500
    return config
