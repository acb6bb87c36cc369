"""Timing another implementation beside ours: the imports and passes, with a stand-in for the clone of it."""

import numpy as np
import pytest

from acmix_jax.benchmark.timing import in_turns
from acmix_jax.errors import UserError
from experiments import released_code

FILES = {
    "ResNet/test_bottleneck.py": """
import torch
class ACmix(torch.nn.Conv2d):
    def __init__(self, in_planes, out_planes, stride=1):
        super().__init__(in_planes, out_planes, 3, stride, 1)
""",
    "ResNet/ResNet_ImageNet.py": """
import torch
from torchvision.models.utils import load_state_dict_from_url
from test_bottleneck import ACmix
def ACmix_ResNet(layers):
    return torch.nn.Sequential(ACmix(3, sum(layers)), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
""",
    "Swin-Transformer/models/swin_transformer_acmix.py": """
import torch
from timm.models.layers import DropPath, to_2tuple, trunc_normal_
class SwinTransformer_acmix(torch.nn.Module):
    def __init__(self, drop_path_rate):
        super().__init__()
        self.rate, self.head = drop_path_rate, torch.nn.Linear(3, 7)
        trunc_normal_(self.head.weight, std=0.02)
    def forward(self, x):
        return self.head(x.mean((2, 3)))
""",
}


@pytest.fixture
def clone(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("name", "classes"), [("acmix_resnet26", 8), ("acmix_swin_tiny", 7)])
def test_networks_evaluate_and_train(clone, name, classes):
    network = released_code.network(clone, name)
    images, labels = np.ones((2, 8, 8, 3), np.float32), np.array([0, classes - 1])
    programs = released_code.programs(network, images, labels)
    assert programs["forward"].run().shape == (2, classes)
    losses = [programs["train"].run().item() for _ in range(200)]
    assert losses[-1] < losses[0]
    assert set(in_turns(programs, 1)) == {"forward", "train"}


def test_the_layer_takes_our_images(clone):
    programs = released_code.programs(released_code.operator(clone, 4, 2), np.ones((2, 8, 6, 4), np.float32))
    assert programs["forward"].run().shape == (2, 4, 4, 3)
    assert programs["forward+backward"].run() > 0


def test_a_folder_that_is_no_clone_is_named(tmp_path):
    with pytest.raises(UserError, match="test_bottleneck.py does not exist"):
        released_code.operator(tmp_path, 4, 1)
