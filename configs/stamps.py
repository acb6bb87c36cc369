"""Semantic segmentation of photographs composed of Debian's stamps of Tux Paint: ten classes and the background.

apt-get install tuxpaint-stamps-default
python -m acmix_jax.data.stamps --out=DIR
python main.py --config=configs/stamps.py --workdir=runs/stamps --config.data.dir=DIR
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
    config.photometric = True
    config.data.source = "label_maps"
    config.data.mean = (0.31, 0.37, 0.33)
    config.data.std = (0.32, 0.23, 0.24)
    config.data.image_size = 128
    config.data.max_class_share = 0.9
    config.data.flip = True
    config.batch_size = 16
    config.num_epochs = 10.0
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.warmup_start = 0.01
    config.optimizer.weight_decay = 0.05
    config.log_every = 25
    config.eval_every = 250
    config.checkpoint_every = 250
    return config
