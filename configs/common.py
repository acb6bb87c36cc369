"""Every field that a config has, with its default. Values are plain numbers, strings and lists."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "classification"
    config.model = "acmix_resnet50"  # one of acmix_jax.list_models()
    config.dtype = "float32"  # of the computation: float32 or bfloat16; parameters stay in float32
    config.seed = 0  # of initialisation, shuffling and augmentation

    config.drop_path = config_dict.placeholder(float)  # of Swin and PVT; None for the model's own rate
    config.dropout = 0.0  # of Swin and PVT

    config.init_from = ""  # workdir or converted weights to start from; plain SAN, PVT, Swin weights suit acmix_* too

    config.acmix = ml_collections.ConfigDict()  # read by models named acmix_* only
    config.acmix.paths = "both"  # both, attention, convolution
    config.acmix.num_heads = config_dict.placeholder(int)  # ResNet only; None for the model's own, 4
    config.acmix.window_size = config_dict.placeholder(int)  # of the attention, in pixels; None for the model's own
    config.acmix.kernel_size = 3  # of the convolution; odd
    config.acmix.shift_form = config_dict.placeholder(str)  # of the convolution, see ops/shift.py; None for the fastest
    config.acmix.attention_form = config_dict.placeholder(str)  # ResNet only, see ops/neighborhood.py; None likewise
    config.acmix.shift_init = True  # start the convolution as shifts (the paper); False as the released ResNet does

    config.data = ml_collections.ConfigDict()
    config.data.source = "digits"  # digits, fashion_mnist or tfds:NAME
    config.data.dir = ""  # folder of the files, for sources that need one
    config.data.num_classes = 10
    config.data.mean = [0.5]  # of the pixels on the scale 0 to 1; one value, or one for each channel
    config.data.std = [0.5]
    config.data.shift = 0  # training images move by up to this many pixels
    config.data.flip = False  # training images are mirrored at random
    config.data.threads = 4  # that prepare batches

    config.batch_size = 64  # over all devices
    config.num_epochs = 1.0
    config.label_smoothing = 0.1

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # sgd (with momentum) or adamw
    config.optimizer.learning_rate = 0.1  # the peak
    config.optimizer.warmup_epochs = 5.0  # linear up to the peak, then a cosine to zero
    config.optimizer.warmup_start = 0.25  # where the warm-up begins, as a part of the peak
    config.optimizer.momentum = 0.9  # of sgd
    config.optimizer.weight_decay = 1e-4
    config.optimizer.no_decay = "(^|/)(alpha|beta)$"  # regular expression of parameters without weight decay

    config.log_every = 50  # steps; 0 for never, as in the next two
    config.eval_every = 1000  # and at the end
    config.checkpoint_every = 1000  # and with each evaluation
    config.keep_checkpoints = 2  # the newest ones; the best one stays besides
    config.best_metric = "top1"
    return config
