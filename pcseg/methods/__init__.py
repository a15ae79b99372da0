"""Training recipes, one file each: a network, its streams of data, and loss terms by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pcseg.config import (
    ConsistencyConfig,
    EntropyMinimizationConfig,
    ErdaConfig,
    IPixMatchConfig,
    PointPanopticConfig,
    PseudoLabelConfig,
    SoftSelfLabelConfig,
    TrainConfig,
)
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.errors import InputError
from pcseg.methods.consistency import Consistency
from pcseg.methods.entropy_minimization import EntropyMinimization
from pcseg.methods.erda import Erda
from pcseg.methods.ipixmatch import IPixMatch
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.panoptic import Panoptic
from pcseg.methods.point_panoptic import PointPanoptic
from pcseg.methods.pseudo_label import PseudoLabel
from pcseg.methods.soft_self_label import SoftSelfLabel
from pcseg.methods.supervised import Supervised
from pcseg.models import feature_width
from pcseg.pseudo.alike import looks_of, surface_of
from pcseg.pseudo.clusters import Clusters
from pcseg.pseudo.neighborhoods import contrasts_of


def build_method(
    config: TrainConfig,
    model: nn.Module,
    *,
    contract: FeatureContract,
    class_weights: Tensor | None = None,  # (K,) float
    average: Mapping[str, Tensor] | None = None,
    clusters: Clusters | None = None,
) -> nn.Module:
    """The method that ``config.method`` describes, around a network.

    Args:
        contract: of the features, for those that weigh edges.
        average: weights of the running average, by name, which the trainer moves; None: there is none.
        clusters: what stands for labels in a run that reads none.

    Returns:
        ``method(streams, levels, progress) -> {term: ()}``, with the network as ``model``.

    Raises:
        InputError: settings that do not fit the data.
    """
    labelled, method = LabelledLoss(config.loss, class_weights), config.method
    _check(config)
    if isinstance(method, EntropyMinimizationConfig):
        return EntropyMinimization(model, labelled, method)
    if isinstance(method, PseudoLabelConfig):
        return PseudoLabel(model, labelled, method)
    if isinstance(method, ErdaConfig):
        return Erda(
            model,
            labelled,
            method,
            num_classes=len(config.data.class_names),
            channels=feature_width(model),
            dim=config.model.dim,
            clusters=clusters,
        )
    if isinstance(method, SoftSelfLabelConfig):
        return SoftSelfLabel(model, labelled, method, contrasts=contrasts_of(contract, method.contrast))
    if isinstance(method, ConsistencyConfig):
        host = Consistency(model, labelled, method, average=average)
        return IPixMatch(host, method) if isinstance(method, IPixMatchConfig) else host
    if isinstance(method, PointPanopticConfig):
        assert config.panoptic is not None
        return PointPanoptic(
            model,
            labelled,
            method,
            config.panoptic,
            channels=feature_width(model),
            dim=config.model.dim,
            is_thing=config.data.is_thing,
            looks=looks_of(contract, method.alike),
            surface=None if method.max_concavity is None else surface_of(contract),
        )
    if config.panoptic is not None:
        return Panoptic(model, labelled, config.panoptic, config.data.is_thing)
    return Supervised(model, labelled)


def _check(config: TrainConfig) -> None:
    """Here, not in the config: checkpoints of older runs, which can still predict, name settings that nothing reads."""
    method = config.method
    if isinstance(method, ErdaConfig) and method.class_weighted and config.loss.class_weights == "none":
        raise InputError("method.class_weighted needs weights of classes, and there are none; set loss.class_weights")
    if isinstance(method, SoftSelfLabelConfig) and method.optimization == "hard_graph_cut" and method.label_noise:
        most = 1 - 1 / len(config.data.class_names)
        if method.label_noise >= most:
            raise InputError(
                f"method.label_noise must be below {most:.4g}, that of a label which says nothing, "
                f"got {method.label_noise}; leave it out"
            )
