"""A small network on Fashion-MNIST, 60,000 photographs of clothing; one of each family, with and without ACmix.

python main.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist
python main.py --config=configs/fashion_mnist.py:acmix_swin_micro_patch2 --workdir=runs/fashion_swin

Models: resnet20_stem2 (5 epochs), san5_stem1, san5_stem1_pairwise, pvt_micro_patch2, swin_micro_patch2 (2 epochs) and
acmix_ before each.
Expected of the first command: 91.4 % top-1 on the 10,000 test images, in about 16 minutes on two CPU cores.
The data: apt-get install dataset-fashion-mnist, or --config.data.dir=FOLDER with the four IDX files, or a copy that
TFDS prepared: --config.data.source=tfds:fashion_mnist
"""

from acmix_jax.config import default_config


def get_config(model="acmix_resnet20_stem2"):
    config = default_config()
    config.model = model
    config.data.source = "fashion_mnist"
    config.data.dir = "/usr/share/datasets/fashion-mnist"
    config.data.num_classes = 10
    config.data.mean = (0.286,)
    config.data.std = (0.353,)
    config.data.shift = 1
    config.data.flip = True
    config.batch_size = 64
    config.num_epochs = 5.0 if "resnet" in model else 2.0
    config.label_smoothing = 0.0
    config.optimizer.warmup_epochs = 0.5
    if "pvt" in model or "swin" in model:
        config.optimizer.name = "adamw"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.warmup_start = 0.01
        config.optimizer.weight_decay = 0.05
        config.optimizer.no_decay = "(^|/)(alpha|beta|bias|scale|relative_position_bias|class_token)$"
    else:
        config.optimizer.learning_rate = 0.1
        config.optimizer.weight_decay = 5e-4
    config.eval_every = 950
    config.checkpoint_every = 500
    return config
