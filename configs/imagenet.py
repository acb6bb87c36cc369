"""ImageNet, each model with the recipe of its family's paper or released code.

python main.py --config=configs/imagenet.py:acmix_swin_tiny --workdir=DIR --config.data.dir=IMAGES

IMAGES has train/<class>/*.JPEG and val/<class>/*.JPEG; faster on network file systems: python -m acmix_jax.data.prepare
--folder=IMAGES --out=DIR, then --config.data.source=records --config.data.dir=DIR; or --config.data.source=
tfds:imagenet2012. Memory short: a smaller --config.batch_size; the learning rate follows it.

Expected top-1 of acmix_ models, printed by the paper (none was trained by us): acmix_resnet26 76.1, acmix_resnet38
77.4, acmix_resnet50 77.8, acmix_san10 77.6, acmix_san15 78.4, acmix_san19 78.7, acmix_pvt_tiny 78.0, acmix_pvt_small
81.7, acmix_swin_tiny 81.9, acmix_swin_small 83.5. Hardware there: eight GPUs.
"""

from acmix_jax.config import default_config


def get_config(model="acmix_resnet50"):
    config = default_config()
    config.model = model
    config.data.source = "folder"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.image_size = 224
    config.data.eval_resize = 256
    config.data.random_crop = True
    config.data.flip = True
    config.data.workers = 8
    config.log_every = 100
    config.eval_every = 5000
    config.checkpoint_every = 1000
    config.optimizer.reference_batch = 256
    if "resnet" in model or "san" in model:
        _convolutional(config)
    else:
        _transformer(config)
    return config


def _convolutional(config):
    """ResNet: the ACmix paper, appendix B, and the released main.py; SAN: the released configs."""
    config.batch_size = 256
    config.num_epochs = 100.0
    if "san" in config.model:
        config.optimizer.warmup_epochs = 0.0
        config.optimizer.per_epoch = True


def _transformer(config):
    """PVT and Swin: the released main.py, config.py and timm's defaults at that time."""
    config.batch_size = 1024
    config.num_epochs = 300.0
    config.data.interpolation = "bicubic"
    config.data.rand_augment = True
    config.random_erasing = 0.25
    config.mixup = 0.8
    config.cutmix = 1.0
    config.label_smoothing_over_all = True
    config.optimizer.name = "adamw"
    config.optimizer.reference_batch = 512
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_start = 0.001
    config.optimizer.final = 0.01
    config.optimizer.restart = False
    config.optimizer.weight_decay = 0.05
    config.optimizer.no_decay = "(^|/)(alpha|beta|bias|scale|relative_position_bias|class_token)$"
    if "swin" in config.model:
        config.optimizer.warmup_epochs = 20.0
        config.optimizer.clip_norm = 5.0
    else:
        config.data.repeats = 3
        config.optimizer.per_epoch = True
        config.optimizer.clip_norm = 1.0 if config.model.endswith(("medium", "large")) else 0.0
