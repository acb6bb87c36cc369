"""Semantic segmentation on ADE20K, each backbone with the recipe of its family's released code.

python main.py --config=configs/ade20k.py:acmix_swin_tiny --workdir=DIR --config.data.dir=ADEChallengeData2016
    --config.init_from=WORKDIR_OR_WEIGHTS_OF_A_CLASSIFIER

Swin: UperNet, 160,000 steps. All others, as PVT: Semantic FPN, 80,000 steps. Each step has 16 crops of 512 x 512. The
folder is that of ADEChallengeData2016.zip, with images/, annotations/ and objectInfo150.txt. For another data set in
this layout, set --config.data.zero_is_ignored, and the number of steps by --config.num_epochs.
"""

from acmix_jax.config import default_config

IMAGES = 20_210


def get_config(model="acmix_swin_tiny"):
    config = default_config()
    config.task = "segmentation"
    config.model = model
    config.photometric = True
    config.data.source = "label_maps"
    config.data.zero_is_ignored = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.image_size = 512
    config.data.short_side = 512
    config.data.long_side = 2048
    config.data.scale_range = (0.5, 2.0)
    config.data.max_class_share = 0.75
    config.data.size_divisor = 32
    config.data.flip = True
    config.data.workers = 8
    config.batch_size = 16
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "poly"
    config.log_every = 50
    config.eval_every = 8000
    config.checkpoint_every = 1000
    if "swin" in model:
        _upernet(config)
    else:
        _semantic_fpn(config)
    return config


def _upernet(config):
    """Swin-Transformer-Semantic-Segmentation, configs/swin/upernet_swin_tiny_patch4_window7_512x512_160k_ade20k.py."""
    config.head = "upernet"
    config.auxiliary_weight = 0.4
    config.drop_path = 0.3
    config.num_epochs = 160_000 * config.batch_size / IMAGES
    config.optimizer.learning_rate = 6e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.no_decay = "(^|/)(alpha|beta|relative_position_bias)$|^backbone/.*norm"  # not of the heads
    config.optimizer.power = 1.0
    config.optimizer.warmup_steps = 1500
    config.optimizer.warmup_start = 1e-6


def _semantic_fpn(config):
    """The paper's form of PVT/segmentation/configs, where batch and rate are twice as large, and steps half as many."""
    config.head = "semantic_fpn"
    config.auxiliary_weight = 0.0
    if "pvt" in config.model:
        config.drop_path = 0.1
    if config.model.startswith("acmix_resnet") or config.model.endswith("_pairwise"):
        config.acmix.position_size = 224  # the step of the position term as in ImageNet's training
    config.num_epochs = 80_000 * config.batch_size / IMAGES
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 1e-4
    config.optimizer.power = 0.9
    config.optimizer.warmup_epochs = 0.0
