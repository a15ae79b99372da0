"""What a run does with the rows that carry no label: one class a method, each tagged by its ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pcseg.config.base import Config
from pcseg.config.data import AugmentConfig
from pcseg.ops.potts_descent import Coupling
from pcseg.ops.potts_energy import Relaxation

Alignment = Literal["kl_pq", "kl_qp", "js", "mse"]
RelationKind = Literal["kl", "correlation", "affinity"]


class SupervisedConfig(Config):
    """The labelled rows and nothing else: partial cross-entropy, where only some are labelled."""

    kind: Literal["supervised"] = "supervised"


class EntropyMinimizationConfig(Config):
    """Predictions on unlabelled rows are to be decided (Grandvalet and Bengio 2004)."""

    kind: Literal["entropy_minimization"] = "entropy_minimization"
    weight: float = Field(default=0.1, ge=0)
    warmup: float = Field(default=0.2, ge=0, le=1)
    """Share of the run in which the weight rises from 0."""


class PseudoLabelConfig(Config):
    """The network's own confident predictions as labels of the rows that have none (Lee 2013)."""

    kind: Literal["pseudo_label"] = "pseudo_label"
    weight: float = Field(default=0.5, ge=0)
    threshold: float = Field(default=0.95, ge=0, le=1)
    """Least probability of the most likely class."""
    warmup: float = Field(default=0.2, ge=0, le=1)
    """Share of the run in which the weight rises from 0."""


class ClustersConfig(Config):
    """k-means clusters of the input features stand for labels: nothing that an annotator has said is read."""

    kind: Literal["clusters"] = "clusters"
    neighbors: int = Field(default=16, ge=1)
    """Nearest rows over which features are averaged before they are clustered; 1: a row's own."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Of the rows, those that are the surest of their cluster: they count as labelled, the others as unlabelled."""


class ErdaConfig(Config):
    """Entropy regularisation and distribution alignment (Tang et al., NeurIPS 2023)."""

    kind: Literal["erda"] = "erda"
    weight: float = Field(default=0.1, ge=0)
    """alpha: of the term on unlabelled rows; 0 trains as plain supervision, bit for bit."""
    entropy_weight: float = Field(default=1.0, ge=0)
    """lambda: of the pseudo-labels' entropy; 1 makes the term one cross entropy."""
    alignment: Alignment = "kl_pq"
    pseudo: Literal["prototypes", "queries", "both"] = "prototypes"
    """What names the pseudo-labels; queries with cross-attention are our design."""
    rows: Literal["unlabelled", "all"] = "unlabelled"
    """Where the term applies; ``all`` for fully labelled data."""
    momentum: float = Field(default=0.999, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of the cosines; 1 as in the release."""
    absent: Literal["keep", "reset"] = "keep"
    """Prototype of a class that the batch lacks: kept, or set to 0 as the release does."""
    coadapt: bool = True
    """Pseudo-labels pass gradients on; False stops them."""
    class_weighted: bool = False
    """Rows weigh as ``loss.class_weights`` says of their most likely pseudo-label."""
    query_layers: int = Field(default=2, ge=1)
    query_heads: int = Field(default=4, ge=1)
    max_rows: int | None = Field(default=None, ge=1)
    """Rows a step, drawn evenly, that the term looks at; None: all."""
    clusters: ClustersConfig | None = None
    """Unsupervised: what stands for labels; None: the labels of the data."""


class SoftSelfLabelConfig(Config):
    """Soft self-labelling with a Potts term (Zhang and Boykov, CVPR 2025), and what it is compared with."""

    kind: Literal["soft_self_label"] = "soft_self_label"
    optimization: Literal["split", "direct", "hard_argmax", "hard_graph_cut"] = "split"
    """Soft labels found for each batch; the loss on predictions themselves; hard labels instead of soft ones."""
    coupling: Coupling = "cce"
    relaxation: Relaxation = "cd"
    unary_weight: float = Field(default=0.3, ge=0)
    """eta: of the coupling (split), of the entropy (direct)."""
    pairwise_weight: float = Field(default=6.0, ge=0)
    """lambda: of the Potts term."""
    solver_steps: int = Field(default=200, ge=1)
    """Gradient steps on the soft labels of a batch."""
    solver_lr: float = Field(default=0.075, gt=0)
    solver_tolerance: float = Field(default=0.0, ge=0, lt=1)
    """The descent of a batch ends early where 20 steps lower the energy by no more than this share of what all its
    steps so far did; 0: never."""
    warmup: float = Field(default=0.3, ge=0, lt=1)
    """Share of the run that is trained on the labelled rows alone."""
    normalization: Literal["each", "rows"] = "each"
    """Mean over labelled and mean over unlabelled rows; or both sums over the number of all rows, as printed."""
    neighborhood: Literal["nearest", "dense"] = "nearest"
    k: int = Field(default=8, ge=1)
    """Nearest neighbours of a cloud's rows."""
    connectivity: Literal[4, 8] = 8
    """Of the pixels of an image network."""
    contrast: dict[str, float] = Field(default={})
    """Bandwidth of a feature, in its own unit, by name; 0: the root mean square difference over the edges."""
    position_bandwidth: float = Field(default=5.0, gt=0)
    """Of the dense neighbourhood, in the unit of the coordinates."""
    label_noise: float | None = Field(default=None, ge=0, lt=1)
    """epsilon of the robust loss on hard labels from graph cuts, below (K - 1) / K; None: 0.99 of that."""

    @model_validator(mode="after")
    def _dense_filters(self) -> SoftSelfLabelConfig:
        if self.neighborhood == "dense" and self.relaxation in ("cce", "cd", "lq"):
            raise ValueError("a dense neighborhood is a filter, which bl, q and nq have, cce, cd and lq have not")
        if self.neighborhood == "dense" and self.optimization == "hard_graph_cut":
            raise ValueError("a graph cut needs a list of edges: neighborhood 'nearest'")
        return self


class ViewsConfig(Config):
    """Weak and strong views of crops without labels."""

    kind: Literal["views"] = "views"
    weak: AugmentConfig | None = None
    """None: as ``data.augment``."""
    strong: AugmentConfig | None = None
    """None: as ``data.augment`` too."""
    mix: Literal["none", "boxes", "blocks"] = "boxes"
    """What of another crop goes into a strong view: a box of the plane (CutMix), or a block of space."""
    mix_probability: float = Field(default=0.5, ge=0, le=1)


class ConsistencyConfig(Config):
    """A strong view is to be seen as the weak one is: FixMatch, UniMatch, mean teacher."""

    kind: Literal["consistency"] = "consistency"
    host: Literal["fixmatch", "unimatch", "mean_teacher"] = "fixmatch"
    weight: float = Field(default=1.0, ge=0)
    threshold: float = Field(default=0.95, ge=0, le=1)
    """Least probability of a pseudo-label that is learnt from; a mean teacher teaches all rows."""
    teacher: Literal["shared", "average"] = "shared"
    """Who looks at the weak view: the network itself, or its running average (``average`` of the run)."""
    warmup: float = Field(default=0.2, ge=0, le=1)
    """Share of the run in which the weight rises from 0."""
    feature_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Of UniMatch's perturbed features: share of channels, drawn for each cloud."""
    views: ViewsConfig = ViewsConfig()

    @property
    def average_teaches(self) -> bool:
        """The teacher is the running average of the weights."""
        return self.teacher == "average" or self.host == "mean_teacher"


class IPixMatchConfig(ConsistencyConfig):
    """A host with a loss on the relations between confident rows (Wu et al., IJCNN 2024)."""

    kind: Literal["ipixmatch"] = "ipixmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    relation: RelationKind = "kl"
    relation_weight: float = Field(default=0.5, ge=0)
    relation_on: Literal["logits", "probs"] = "logits"
    temperature: float = Field(default=1.0, gt=0)
    scope: Literal["sample", "batch"] = "sample"
    """Rows that are related: those of a cloud, or all of the batch."""


class PointPanopticConfig(Config):
    """Panoptic segmentation from a labelled row of each thing and stuff region (Li, Fan and Zhang, ECCV 2024)."""

    kind: Literal["point_panoptic"] = "point_panoptic"
    distance: Literal["learned", "path", "nearest", "color"] = "learned"
    """What says which thing a row belongs to: the learnable distance, or the rules it is compared with."""
    distance_loss: Literal["nll", "regression"] = "nll"
    schedule: Literal["joint", "two_stage"] = "joint"
    """All losses from the start; or distances and classes in the first half, masks from then on."""
    query_init: Literal["points", "learned"] = "points"
    place: Literal["middle", "path"] = "middle"
    """What a learnt distance from a thing grows with, beside what its query sees: how far its middle is, or what the
    cheapest path to its labelled rows costs (as of ``distance="path"``)."""
    rounds: int = Field(default=2, ge=0)
    """Of aggregating and enhancing the anchor queries."""
    aggregate: bool = True
    enhance: bool = True
    width: int = Field(default=64, ge=8, multiple_of=8)
    """Channels of the anchor queries."""
    heads: int = Field(default=4, ge=1)
    distance_weight: float = Field(default=1.0, ge=0)
    prior_weight: float = Field(default=0.5, ge=0)
    """Of the rule that rows which look alike have one class."""
    distance_prior_weight: float = Field(default=0.5, ge=0)
    """Of the rule that they have one target."""
    mask_weight: float = Field(default=1.0, ge=0)
    """Of the panoptic branch, taught by pseudo-labels."""
    warmup: float = Field(default=0.3, ge=0, le=1)
    """Share of the run in which ``mask_weight`` rises from 0 (``joint``)."""
    dilation: float = Field(default=0.0, ge=0)
    """Rows within this distance of a labelled row count as labelled too, in the unit of the coordinates; with
    ``max_concavity`` only those that tied pairs lead to."""
    alike: dict[str, float] = Field(default={"color": 1.0})
    """Features by which rows look alike, with a scale each: in LAB for colours, in its own unit for others."""
    min_likeness: float = Field(default=0.3, gt=0, lt=1)
    """``exp(-difference / 2 / scale)`` from which on a pair is tied."""
    max_concavity: float | None = Field(default=None, ge=0, le=2)
    """Of clouds with the feature ``normals``: pairs between which the surface folds inwards by more, the sine of the
    angle about, are not tied, as things meet in such folds; null: no matter."""
    k: int = Field(default=8, ge=1)
    """Neighbours of a cloud's row."""
    window: int = Field(default=5, ge=3)
    """Odd: edge of the window of pixels around a pixel."""
    window_step: int = Field(default=2, ge=1)
    """Pixels between the places of that window."""
    presence: bool = True
    """Every class that an item has carries a label there: right where items are whole scenes or images."""
    assign_by: Literal["classes", "distance"] = "classes"
    """A row's pseudo-label: the nearest thing, or the stuff, of its most likely class; or the nearest of all targets,
    whatever the network thinks of classes."""
    min_confidence: float = Field(default=0.5, ge=0, lt=1)
    """Rows whose most likely class is less likely have no pseudo-label."""
    smoothing: float = Field(default=0.0, ge=0)
    """lambda of the Potts term on tied pairs that moves the borders of pseudo-labels to where ties end; 0: none."""
    edge_weight: float = Field(default=0.1, ge=0)
    """Of paths: of entering a row that differs from its surroundings, or where the surface folds inwards."""
    embedding_weight: float = Field(default=0.1, ge=0)
    """Of paths: of a step between rows with unlike features."""
    length_weight: float = Field(default=0.0, ge=0)
    """Of paths: of their length, over the cloud's extent; 0 as in PSPS."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> PointPanopticConfig:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width {self.width}, got {self.heads}")
        if self.window % 2 == 0:
            raise ValueError(f"window must be odd, got {self.window}")
        return self


MethodConfig = Annotated[
    SupervisedConfig
    | EntropyMinimizationConfig
    | PseudoLabelConfig
    | ErdaConfig
    | SoftSelfLabelConfig
    | ConsistencyConfig
    | IPixMatchConfig
    | PointPanopticConfig,
    Field(discriminator="kind"),
]
