"""The authors' PyTorch code, imported from a clone (github.com/LeapLabTHU/ACmix) to be timed next to ours.

None of it is copied here. Imports that it never uses, or uses only to draw initial values, are replaced by stubs, so
that neither torchvision nor timm is needed.
"""

import importlib.util
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from acmix_jax.benchmark.timing import Program
from acmix_jax.errors import UserError

DEPTHS = {"acmix_resnet26": [1, 2, 4, 1], "acmix_resnet38": [2, 3, 5, 2], "acmix_resnet50": [3, 4, 6, 3]}
NETWORKS = (*DEPTHS, "acmix_swin_tiny")


def operator(folder: Path, features: int, stride: int) -> Any:
    """The released ACmix layer of ResNet, `features` to `features` channels."""
    return _load(folder / "ResNet" / "test_bottleneck.py").ACmix(features, features, stride=stride)


def network(folder: Path, name: str) -> Any:
    """A released network for 1000 classes, without drop path."""
    if name in DEPTHS:
        with mock.patch.object(sys, "path", [str(folder / "ResNet"), *sys.path]):
            return _load(folder / "ResNet" / "ResNet_ImageNet.py").ACmix_ResNet(DEPTHS[name])
    path = folder / "Swin-Transformer" / "models" / "swin_transformer_acmix.py"
    return _load(path).SwinTransformer_acmix(drop_path_rate=0.0)


def programs(module: Any, images: Any, labels: Any | None = None, dtype: str = "float32") -> dict[str, Program]:
    """The "forward" pass (no gradient) on NHWC `images`, and "forward+backward", or with `labels` a "train" step.

    A train step is cross entropy, gradient, and an update with momentum. bfloat16 is PyTorch's autocast.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = module.to(device)
    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(device).requires_grad_(labels is None)
    target = None if labels is None else torch.tensor(labels).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)

    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")

    def forward():
        module.eval()
        with torch.no_grad(), autocast():
            return module(x)

    def backward():
        module.train()
        optimizer.zero_grad()
        with autocast():
            out = module(x)
            loss = (out**2).sum() if target is None else torch.nn.functional.cross_entropy(out, target)
        loss.backward()
        if target is not None:
            optimizer.step()
        return loss

    def wait(_):
        if device == "cuda":
            torch.cuda.synchronize()

    return {
        "forward": Program(forward, wait),
        "forward+backward" if target is None else "train": Program(backward, wait),
    }


def _load(path):
    """Imports one file of the clone."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; --released-code is the folder of a clone of github.com/LeapLabTHU/ACmix"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, _stubs()):
        spec.loader.exec_module(module)
    return module


def _stubs():
    """Stubs of the modules that its files import; drop path is never called, as its rate is 0."""
    import torch

    torchvision = types.ModuleType("torchvision.models.utils")
    torchvision.load_state_dict_from_url = None
    timm = types.ModuleType("timm.models.layers")
    timm.DropPath = torch.nn.Identity
    timm.to_2tuple = lambda size: (size, size)
    timm.trunc_normal_ = torch.nn.init.trunc_normal_
    modules = {}
    for module in (torchvision, timm):
        package, _, _ = module.__name__.partition(".")
        modules |= {name: types.ModuleType(name) for name in (package, f"{package}.models")}
        modules[module.__name__] = module
    return modules
