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
    config.acmix.combination = "learned"  # of both: learned, convex (alpha and 1 - alpha), fixed (a half each)
    config.acmix.num_heads = config_dict.placeholder(int)  # ResNet only; None for the model's own, 4
    config.acmix.window_size = config_dict.placeholder(int)  # of the attention, in pixels; None for the model's own
    config.acmix.kernel_size = 3  # of the convolution; odd
    config.acmix.shift_form = config_dict.placeholder(str)  # of the convolution, see ops/shift.py; None for the fastest
    config.acmix.attention_form = config_dict.placeholder(str)  # ResNet only, see ops/neighborhood.py; None likewise
    config.acmix.shared_shift = False  # one shift kernel for all heads, not one each (the paper: one each)
    config.acmix.shift_init = True  # start the convolution as shifts (the paper); False as the released ResNet does

    config.data = ml_collections.ConfigDict()
    config.data.source = "digits"  # digits, fashion_mnist, folder (of images), records (of data.prepare) or tfds:NAME
    config.data.dir = ""  # folder of the files, for sources that need one
    config.data.num_classes = 10
    config.data.mean = [0.5]  # of the pixels on the scale 0 to 1; one value, or one for each channel
    config.data.std = [0.5]
    config.data.image_size = 0  # height and width that images get; 0 leaves them as they are, all of one size
    config.data.interpolation = "bilinear"  # or bicubic
    config.data.random_crop = False  # training images are random parts of the source's, resized
    config.data.crop_scale = [0.08, 1.0]  # smallest and largest part of the area
    config.data.eval_resize = 0  # shorter side before the middle is cut out to evaluate; 0 resizes the whole image
    config.data.shift = 0  # training images move by up to this many pixels
    config.data.flip = False  # training images are mirrored at random
    config.data.rand_augment = False  # RandAugment m9-mstd0.5-inc1; RGB only
    config.data.repeats = 1  # times in a row that an image comes with other changes; epochs have as many rows as before
    config.data.damaged = "fail"  # what a damaged image does: fail, or skip (the next one takes its place)
    config.data.threads = 4  # that prepare batches, in each worker
    config.data.workers = 0  # processes that prepare batches; 0 for the main process alone

    config.batch_size = 64  # over all devices
    config.accumulate = 1  # parts that a batch goes through the model in, one after the other, to save memory
    config.remat = False  # compute each block again for its gradient: less memory, more time
    config.fsdp = 1  # devices that share each copy of the parameters and of the optimizer's state
    config.batch_norm_groups = 1  # parts of a batch that BatchNorm normalises each by itself; 1: by the whole batch
    config.ema = 0.0  # decay of a moving average of the weights, to evaluate with, such as 0.9999; 0 for none
    config.num_epochs = 1.0
    config.label_smoothing = 0.1
    config.label_smoothing_over_all = False  # shared by all classes (PVT, Swin), not by the wrong ones (ResNet, SAN)
    config.random_erasing = 0.0  # part of the training images that get a rectangle of noise
    config.mixup = 0.0  # of its Beta distribution; 0 for no mixup. With both, a coin decides
    config.cutmix = 0.0  # likewise

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # sgd (with momentum) or adamw
    config.optimizer.learning_rate = 0.1  # the peak
    config.optimizer.reference_batch = 0  # batch that the peak is meant for, others get it in proportion; 0: any batch
    config.optimizer.schedule = "cosine"  # after the warm-up: cosine, steps or poly, see training/optim.py
    config.optimizer.milestones = []  # of steps: epochs at whose start the learning rate changes, such as [8, 11]
    config.optimizer.gamma = 0.1  # of steps: factor at each milestone
    config.optimizer.power = 1.0  # of poly
    config.optimizer.warmup_epochs = 5.0  # linear, up to the peak
    config.optimizer.warmup_steps = 0  # length of the warm-up instead of warmup_epochs; 0: warmup_epochs
    config.optimizer.warmup_start = 0.25  # where the warm-up begins, as a part of the peak
    config.optimizer.restart = True  # the cosine begins at the peak; False: where it would be without a warm-up
    config.optimizer.final = 0.0  # where cosine and poly end, as a part of the peak
    config.optimizer.per_epoch = False  # the learning rate changes with each epoch, not with each step
    config.optimizer.clip_norm = 0.0  # largest norm of the gradient; 0 for any
    config.optimizer.momentum = 0.9  # of sgd
    config.optimizer.weight_decay = 1e-4
    config.optimizer.no_decay = "(^|/)(alpha|beta)$"  # regular expression of parameters without weight decay
    config.optimizer.frozen = ""  # likewise, of parameters that keep the values they start with; "" for none
    config.optimizer.lr_factors = ""  # of the learning rate: "REGEX=FACTOR ...", first match, such as "^backbone/=0.1"

    config.distributed = ml_collections.ConfigDict()
    config.distributed.coordinator = ""  # of several processes: "auto" (TPU pods, SLURM) or HOST:PORT of the first
    config.distributed.num_processes = 1  # with HOST:PORT
    config.distributed.process_id = 0  # with HOST:PORT; from 0

    config.log_examples = False  # write the places in the source of each step's images to examples_PROCESS.jsonl
    config.wandb_project = ""  # logs to this project of Weights & Biases, too; needs pip install wandb
    config.log_every = 50  # steps; 0 for never, as in the next two
    config.eval_every = 1000  # and at the end
    config.checkpoint_every = 1000  # and with each evaluation
    config.profile_steps = ""  # such as "100:110": steps to trace, for xprof or TensorBoard
    config.keep_checkpoints = 2  # the newest ones; the best one stays besides
    config.best_metric = "top1"
    return config
