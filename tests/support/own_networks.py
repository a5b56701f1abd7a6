"""Architectures that people bring, as a module of theirs, and the losses of `LOSSES` that each cannot have."""

from __future__ import annotations

from typing import Final

NETWORKS: Final = """
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )

def vgg():
    def block(inside, outside):
        return nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    return nn.Sequential(
        *block(1, 8), *block(8, 16), nn.Flatten(), nn.Linear(784, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10)
    )

class ThinResNet18(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=10)
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(64, 10)
    def _make_layer(self, block, planes, *arguments, **more):
        self.inplanes = 8 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 8, *arguments, **more)

def mobilenet():
    network = models.MobileNetV2(10, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]])
    network.features[0][0] = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
    return network

def group_norm():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(4, 16),
        nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )

def vit():
    network = models.VisionTransformer(28, 7, 2, 2, 16, 32, num_classes=10)
    network.conv_proj = nn.Conv2d(1, 16, 7, stride=7)
    return network
"""
LOSSES: Final = {
    "bn_weight": 5.0, "ce_weight": 0.05, "diversity_weight": 0.01, "tv_weight": 0.3, "row_space_weight": 0.5,
    "estimator": "relative", "multiplier_floor": 0.1,
}  # fmt: skip
OFF: Final[dict[str, set[str]]] = {
    "lenet": {"bn_weight"}, "vgg": set(), "ThinResNet18": set(), "mobilenet": set(), "group_norm": {"bn_weight"},
    "vit": {"bn_weight"},
}  # fmt: skip
