"""DeepLabV3+: dilation computes what strides computed, taps have the strides that the decoder expects."""

import copy

import pytest
import torch
from torch import nn

from pcseg.config import DeepLabConfig
from pcseg.models import build_model
from pcseg.models.deeplab import DilatedPyramid, dilate_resnet
from tests.models.images import NARROW, TINY_MOBILENET, TINY_RESNET, images

STRIDES = {8: 4, 16: 2}
"""By output stride: samples of the dilated map for each of the strided one."""


def settle(net):
    """Weights and statistics with which maps keep their scale; evaluation mode."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return net.eval()


@pytest.mark.parametrize("first", [False, True], ids=["stride in 3 x 3", "stride in 1 x 1"])
@pytest.mark.parametrize("size", [(64, 96), (65, 47)], ids=str)
@pytest.mark.parametrize("output_stride", STRIDES)
@torch.no_grad()
def test_dilated_resnet_is_the_strided_one_on_a_finer_grid(output_stride, size, first):
    from transformers import ResNetBackbone, ResNetConfig

    config = ResNetConfig(**TINY_RESNET, out_features=["stage1", "stage4"], downsample_in_bottleneck=first)
    strided = settle(ResNetBackbone(config))
    dilated = copy.deepcopy(strided)
    dilate_resnet(dilated, output_stride)
    planes = torch.randn(2, 3, *size)
    low, coarse = strided(planes).feature_maps
    same, fine = dilated(planes).feature_maps
    assert fine.shape[2:] == tuple(-(-n // output_stride) for n in size)
    assert coarse.std() > 0.1
    every = STRIDES[output_stride]
    torch.testing.assert_close(fine[:, :, ::every, ::every], coarse, rtol=1e-4, atol=1e-5)
    assert torch.equal(same, low)
    convolutions = [m for m in dilated.encoder.stages.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    rates = [conv.dilation[0] for conv in convolutions]  # of 1 + 2 + 2 + 2 blocks
    start = rates[:3]
    assert start == [1, 1, 1]
    assert (
        rates[3:]
        == {8: [2, 2, 4, 4] if first else [1, 2, 2, 4], 16: [1, 1, 2, 2] if first else [1, 1, 1, 2]}[output_stride]
    )


@pytest.mark.parametrize("output_stride", STRIDES)
@pytest.mark.parametrize("tf_padding", [False, True])
@torch.no_grad()
def test_dilated_mobilenet_is_the_strided_one_on_a_finer_grid(output_stride, tf_padding):
    """With TensorFlow's padding the grids meet at the first sample if 32 divides the edge less one, as with 513."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    settings = {"tf_padding": tf_padding, **TINY_MOBILENET}
    strided = settle(MobileNetV2Model(MobileNetV2Config(**settings)))
    dilated = MobileNetV2Model(MobileNetV2Config(**settings, output_stride=output_stride)).eval()
    dilated.load_state_dict(strided.state_dict())
    planes = torch.randn(2, 3, 65, 97)
    coarse = strided(planes, output_hidden_states=True).hidden_states
    fine = dilated(planes, output_hidden_states=True).hidden_states
    every = STRIDES[output_stride]
    assert coarse[-1].std() > 0.01
    torch.testing.assert_close(fine[-1][:, :, ::every, ::every], coarse[-1], rtol=1e-3, atol=1e-5)
    assert torch.equal(fine[1], coarse[1])


@pytest.mark.parametrize("size", [(64, 96), (65, 47)], ids=str)
@pytest.mark.parametrize("output_stride", STRIDES)
@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
@torch.no_grad()
def test_strides_of_the_taps(backbone, output_stride, size):
    encoder = TINY_MOBILENET if backbone == "mobilenet_v2" else TINY_RESNET
    config = DeepLabConfig(backbone=backbone, encoder=encoder, output_stride=output_stride, **NARROW)
    net = build_model(config, 3, 4).eval()
    low, *_, high = net.encoder(torch.randn(1, 3, *size))
    assert low.shape[2:] == tuple(-(-n // 4) for n in size)
    assert high.shape[2:] == tuple(-(-n // output_stride) for n in size)
    assert net.features(torch.randn(1, 3, *size)).shape == (1, 16, *low.shape[2:])
    rates = [branch[0].dilation[0] for branch in net.pyramid.branches]
    assert rates == ([1, 6, 12, 18] if output_stride == 16 else [1, 12, 24, 36])


def test_pyramid_by_hand():
    """Ones through ones: each branch counts what it sees."""
    pyramid = DilatedPyramid(1, 1, [2], separable=False).eval()
    for module in pyramid.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eps = 0.0
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[0, 0, 2, 2] = 1.0
    expected = torch.full((5, 5), 1 / 25)  # the mean
    expected[2, 2] += 1.0  # 1 x 1
    expected[::2, ::2] += 1.0  # 3 x 3, two apart
    torch.testing.assert_close(pyramid(impulse)[0, 0], expected)


def test_separable_where_the_encoder_is_mobile():
    groups = {}
    for backbone, encoder in (("resnet50", TINY_RESNET), ("mobilenet_v2", TINY_MOBILENET)):
        net = build_model(DeepLabConfig(backbone=backbone, encoder=encoder, **NARROW), 3, 4)
        wide = [m for part in (net.pyramid, net.decoder) for m in part.modules()]
        groups[backbone] = [m.groups > 1 for m in wide if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert groups == {"resnet50": [False] * 5, "mobilenet_v2": [True] * 5}


def test_every_batch_norm_has_the_momentum_of_the_config():
    net = build_model(DeepLabConfig(backbone="mobilenet_v2", norm_momentum=0.05, **NARROW), 3, 4)
    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert len(norms) > 50 and {norm.momentum for norm in norms} == {0.05}


def test_statistics_approach_those_of_the_batch():
    net = build_model(DeepLabConfig(backbone="mobilenet_v2", encoder=TINY_MOBILENET, **NARROW), 3, 4).train()
    norm = net.encoder.net.conv_stem.first_conv.normalization
    net(images([(32, 32)] * 2))
    once = norm.running_var.clone()
    net(images([(32, 32)] * 2))
    torch.testing.assert_close(norm.running_var - once, 0.9 * (once - 1.0), rtol=1e-3, atol=1e-6)


def test_random_mobilenet_starts_at_the_scale_of_he():
    """A depthwise convolution has 9 weights a channel: at a deviation of 0.02 the optimiser's steps outweigh them."""
    torch.manual_seed(0)
    net = build_model(DeepLabConfig(backbone="mobilenet_v2"), in_channels=3, num_classes=2)
    for name, module in net.encoder.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan = module.weight[0].numel()
            assert abs(float(module.weight.detach().std()) * (fan / 2) ** 0.5 - 1) < 0.1, name
