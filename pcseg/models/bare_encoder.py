"""A pretrained encoder by itself, as a source of frozen features."""

from __future__ import annotations

from torch import Tensor, nn

from pcseg.config import DeepLabConfig, EncoderConfig, SwinConfig, ViTConfig
from pcseg.errors import InputError
from pcseg.models import build_model
from pcseg.models.encoders import stored_values


class BareEncoder(nn.Module):
    """The last feature map of an encoder: the patch tokens of ViT and DINOv2, the last stage of Swin and ResNet."""

    def __init__(self, encoder: nn.Module, patch: int):
        super().__init__()
        self.encoder = encoder
        self.patch = patch
        """Pixels of which the edges of an image must be a multiple."""

    def features(self, planes: Tensor) -> Tensor:  # (b, 3, H, W) -> (b, F, h, w)
        return self.encoder(planes)[-1]


def bare_encoder(weights: str) -> BareEncoder:
    """The encoder in a folder, or under a hub id, of ``transformers``; its ``config.json`` says which it is.

    Raises:
        InputError: no such weights, or an architecture without an adapter here.
    """
    stored = stored_values(weights)
    family = stored.get("model_type")
    known = [DeepLabConfig(backbone=name, weights=weights, freeze=True) for name in ("resnet50", "resnet101")]
    resnets = {config.settings["depths"]: config for config in known}
    depths = tuple(stored.get("depths", ()))
    config: EncoderConfig
    if family in ("vit", "dinov2"):
        config = ViTConfig(family=family, weights=weights, freeze=True)
    elif family == "swin":
        config = SwinConfig(weights=weights, freeze=True)
    elif family == "mobilenet_v2":
        config = DeepLabConfig(backbone="mobilenet_v2", weights=weights, freeze=True)
    elif family == "resnet" and depths in resnets:
        config = resnets[depths]
    else:
        raise InputError(
            f"{weights}: is of model_type {family}; vit, dinov2, swin, mobilenet_v2 and ResNets of 50 and 101 layers "
            f"can be read"
        )
    model = build_model(config, 3, 2)
    encoder = model.get_submodule("encoder")
    return BareEncoder(encoder, getattr(model, "patch", 32))
