"""Mask2Former of ``transformers`` on the maps of an image network: masks on a grid, brought to the pixels late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig as Settings
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from pcseg.batch import PointBatch
from pcseg.config import Mask2FormerConfig
from pcseg.errors import InputError
from pcseg.models.encoders import Scale, location_of, read_stored, stored_values
from pcseg.models.heads import FeatureMaps, MaskMaps, PanopticOutput, Proposals, SegOutput
from pcseg.models.image_grid import enlarge, from_planes

LEVELS = 3
"""Scales that the deformable attention of the pixel decoder walks through; finer ones only refine the masks."""


class Mask2Former(nn.Module):
    """Q learnt queries an image; each layer looks at the places of the query's mask so far, on the next scale.

    Args:
        scales: of the encoder's maps, fine to coarse; masks have the first one's grid.
        class_names: K.
        pretrained: load ``config.weights``, if there are any.

    Raises:
        InputError: too few scales; weights that cannot be read or do not fit.

    Source: Cheng et al. 2022, Masked-attention Mask Transformer for Universal Image Segmentation. All parts are those
    of ``transformers``; images of several sizes are not padded but seen size by size.
    """

    def __init__(
        self,
        config: Mask2FormerConfig,
        scales: Sequence[Scale],
        class_names: Sequence[str],
        *,
        pretrained: bool = False,
    ):
        super().__init__()
        if len(scales) < LEVELS:
            raise InputError(
                f"panoptic.kind mask2former reads maps of {LEVELS} scales or more, and the network gives "
                f"{len(scales)}; take model.kind deeplab or swin, or panoptic.kind query_decoder"
            )
        self.config, self.scales = config, tuple(scales)
        self.num_classes = len(class_names)
        self.net = _Net(settings_of(config, len(class_names), scales), [scale.channels for scale in scales])
        if pretrained and config.weights is not None:
            _load(self.net, config.weights, class_names)

    def forward(self, batch: PointBatch, output: SegOutput) -> PanopticOutput:
        """Proposals for every image, before the first layer and after each.

        Args:
            output: of the network on ``batch``, with its encoder's maps.
        """
        maps = tuple(self._propose(found) for found in output.maps)
        count = self.config.layers + 1
        layers = tuple(self._layer(batch, maps, number) for number in range(count))
        return PanopticOutput(layers, None, maps)

    def _propose(self, found: FeatureMaps) -> MaskMaps:
        classes, masks = self.net([stage.float() for stage in found.stages])
        return MaskMaps(found.images, found.size, self.scales[0].stride, classes, masks)

    def _layer(self, batch: PointBatch, maps: tuple[MaskMaps, ...], number: int) -> Proposals:
        nothing = batch.feats.new_zeros(self.config.queries, self.num_classes + 1)  # of an image without pixels
        classes = [nothing] * len(batch)
        for group in maps:
            for place, image in enumerate(group.images):
                classes[image] = group.class_logits[number][place]

        def rows() -> Tensor:
            if not maps:
                return batch.feats.new_zeros(0, self.config.queries)
            return from_planes(maps, [enlarge(g.mask_logits[number], g.stride, g.size) for g in maps])

        return Proposals(torch.stack(classes) if classes else nothing[None, :][:0], rows)


class _Net(Mask2FormerPreTrainedModel):
    """The parts, with the initial weights that ``transformers`` gives them."""

    def __init__(self, settings: Settings, channels: list[int]):
        super().__init__(settings)
        self.pixel_decoder = Mask2FormerPixelDecoder(settings, feature_channels=channels)
        level_embed = self.pixel_decoder.level_embed
        self.pixel_decoder.level_embed = nn.Parameter(torch.empty(level_embed.shape))  # on the default device too
        self.transformer = Mask2FormerTransformerModule(in_features=settings.feature_size, config=settings)
        self.class_predictor = nn.Linear(settings.hidden_dim, settings.num_labels + 1)  # pyright: ignore[reportOptionalOperand]
        self.post_init()

    def forward(self, stages: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Class logits (b, Q, K + 1) and mask logits (b, Q, h, w), layer by layer."""
        pixels = self.pixel_decoder(stages)
        decoded = self.transformer(multi_scale_features=pixels.multi_scale_features, mask_features=pixels.mask_features)
        queries = decoded.intermediate_hidden_states  # (Q, b, channels) each
        classes = tuple(self.class_predictor(values.transpose(0, 1)) for values in queries)
        return classes, tuple(decoded.masks_queries_logits)


def settings_of(config: Mask2FormerConfig, num_classes: int, scales: Sequence[Scale] = ()) -> Settings:
    """The same as a config of ``transformers``; ``scales`` matter to the network, not to the loss."""
    strides = {"feature_strides": [s.stride for s in scales], "common_stride": scales[0].stride} if scales else {}
    return Settings(
        num_labels=num_classes,  # pyright: ignore[reportCallIssue]
        feature_size=config.channels,
        mask_feature_size=config.channels,
        hidden_dim=config.channels,
        encoder_feedforward_dim=config.pixel_hidden,
        encoder_layers=config.pixel_layers,
        decoder_layers=config.layers + 1,  # counts the proposals
        dim_feedforward=config.hidden,
        num_attention_heads=config.heads,
        dropout=config.dropout,
        num_queries=config.queries,
        no_object_weight=config.nothing_weight,
        class_weight=config.class_weight,
        mask_weight=config.mask_weight,
        dice_weight=config.dice_weight,
        train_num_points=config.points,
        oversample_ratio=config.oversample,
        importance_sample_ratio=config.importance,
        **strides,
    )


def _load(net: _Net, weights: str, class_names: Sequence[str]) -> None:
    """Take over the decoders of a Mask2Former checkpoint, and its classifier where the classes are the same.

    Raises:
        InputError: no such checkpoint, one of another model, or decoders of other shapes.
    """
    field = "panoptic.weights"
    kind = stored_values(weights, field=field).get("model_type")
    if kind != "mask2former":
        raise InputError(f"{field} {weights}: is of model_type {kind}, and mask2former is wanted")

    def load() -> tuple[Any, dict[str, Any]]:
        return Mask2FormerForUniversalSegmentation.from_pretrained(  # pyright: ignore[reportReturnType]
            location_of(weights), dtype=torch.float32, output_loading_info=True
        )

    theirs, report = read_stored(weights, load, field=field, what="a Mask2Former")
    parts = {
        "pixel_decoder": theirs.model.pixel_level_module.decoder,
        "transformer": theirs.model.transformer_module,
    }
    gone = sorted(name for name in report["missing_keys"] if "pixel_level_module.encoder" not in name)
    if gone:
        raise InputError(f"{field} {weights}: lacks {len(gone)} tensors of a Mask2Former, such as {gone[0]}")
    given = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    ours = {name: value for name, value in net.state_dict().items() if name.split(".")[0] in parts}
    wrong = []
    for name in sorted(ours.keys() | given.keys()):
        there, here = (tuple(values[name].shape) if name in values else None for values in (given, ours))
        if there != here:
            wrong.append(f"{name} is {there or 'missing'} there and {here or 'missing'} here")
    if wrong:
        raise InputError(
            f"{field} {weights}: {len(wrong)} tensors do not fit, such as {wrong[0]}; set queries, channels, heads and "
            f"layers of panoptic as there, and take an encoder of the same channels"
        )
    names = [theirs.config.id2label.get(index) for index in range(theirs.config.num_labels)]
    if names == list(class_names):
        given |= {f"class_predictor.{name}": value for name, value in theirs.class_predictor.state_dict().items()}
    net.load_state_dict(given, strict=False)
