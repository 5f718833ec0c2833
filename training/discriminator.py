"""Judges reconstructions by more than pixels: features of a CLIP ResNet, and a patch discriminator that learns along.

Gives gradients to the picture; never sees the generator's weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from training.checkpoint import pack, unpack
from training.towers import normalise
from vqclip.perceptors.openai_clip import CLIP, ModifiedResNet


def load_tower(path: Path) -> ModifiedResNet:
    """The frozen ResNet picture tower of an exported CLIP.

    Raises:
        ValueError: when the file holds a vision transformer, whose patches say little about edges.
    """
    with safe_open(path, "pt") as file:
        architecture = json.loads(file.metadata()["architecture"])
        names = [name for name in file.keys() if name.startswith("visual.")]  # noqa: SIM118 - a file, not a dict
        state = {name.removeprefix("visual."): file.get_tensor(name).float() for name in names}
    tower = CLIP(**architecture).visual
    if not isinstance(tower, ModifiedResNet):
        raise ValueError(f"{path} has no ResNet picture tower")
    tower.load_state_dict(state)
    return tower.eval().requires_grad_(requires_grad=False)


def list_features(tower: ModifiedResNet, image: Tensor) -> list[Tensor]:
    """Feature maps at 1/4, 1/4, 1/8 and 1/16 of the size of pictures (B, 3, H, W) in [0, 1], unit length per place."""
    x = normalise(image)
    for number in (1, 2, 3):
        x = F.relu(getattr(tower, f"bn{number}")(getattr(tower, f"conv{number}")(x)))
    maps = [tower.avgpool(x)]
    for layer in (tower.layer1, tower.layer2, tower.layer3):
        maps.append(layer(maps[-1]))
    return [F.normalize(each.float(), dim=1) for each in maps]


def feature_distance(tower: ModifiedResNet, image: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the features, summed over channels, mean over places and maps; a scalar.

    Pictures (B, 3, H, W) in [0, 1]. After LPIPS (Zhang et al. 2018) with all channels weighted alike.
    """
    with torch.no_grad():
        goals = list_features(tower, target)
    found = list_features(tower, image)
    pairs = zip(found, goals, strict=True)
    return torch.stack([(one - two).square().sum(1).mean() for one, two in pairs]).mean()


class PatchDiscriminator(nn.Sequential):
    """(B, 3, H, W) in [-1, 1] -> (B, 1, h, w) scores; each sees 34 x 34 pixels (Isola et al. 2017, one layer less)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(4, 2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 1, 1), nn.GroupNorm(4, 4 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, 1, 1),
        )  # fmt: skip


class Critics:
    """The critics in use, each with its share of the pixel loss's pull on the picture.

    A critic's gradient is scaled to a fixed share of the pixel loss's by their lengths: the adaptive weight of Esser
    et al. 2021, measured on the picture instead of on the last layer, which costs no second pass.
    """

    def __init__(
        self, device: torch.device, *, clip: Path | None, adversarial: bool, feature_share: float = 0.5,
        patch_share: float = 0.2, patch_rate: float = 4e-4, seed: int = 5,
    ) -> None:  # fmt: skip
        self.tower = load_tower(clip).to(device) if clip else None
        self.patches: PatchDiscriminator | None = None
        self.feature_share, self.patch_share, self.lessons = feature_share, patch_share, 0
        if adversarial:
            torch.manual_seed(seed)
            self.patches = PatchDiscriminator().to(device)
            self.optimizer = torch.optim.Adam(self.patches.parameters(), lr=patch_rate, betas=(0.5, 0.9))

    def pull(self, out: Tensor, target: Tensor, pixel_loss: Tensor) -> Tensor:
        """d loss / d out, (B, 3, H, W), of the pixel loss and the critics together. Pictures in [-1, 1]."""
        total = own = torch.autograd.grad(pixel_loss, out)[0]
        image = out.detach().requires_grad_()
        with torch.autocast(out.device.type, torch.bfloat16):
            losses: list[tuple[float, Tensor]] = []
            if self.tower is not None:
                distance = feature_distance(self.tower, (image + 1) / 2, (target + 1) / 2)
                losses.append((self.feature_share, distance))
            if self.patches is not None:  # its voice grows over the first 300 lessons
                share = self.patch_share * min(1.0, self.lessons / 300)
                losses.append((share, -self.patches(image).float().mean()))
        for share, loss in losses:
            gradient = torch.autograd.grad(loss, image)[0]
            total = total + share * own.norm() / gradient.norm().clamp_min(1e-8) * gradient
        return total

    def learn(self, out: Tensor, target: Tensor) -> None:
        """One hinge step of the discriminator on reconstructions and originals (B, 3, H, W); nothing without one."""
        if self.patches is None:
            return
        with torch.autocast(out.device.type, torch.bfloat16):
            real, fake = (self.patches(picture).float() for picture in (target, out.detach()))
        loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.lessons += 1

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the discriminator, as a state dict."""
        if self.patches is None:
            return {}
        return pack(self.patches, self.optimizer, "patches.") | {"lessons": torch.tensor(self.lessons)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts the state dict of `state` back; does nothing where the checkpoint had no discriminator."""
        if self.patches is not None and "lessons" in tensors:
            unpack(tensors, self.patches, self.optimizer, "patches.")
            self.lessons = int(tensors["lessons"])
