"""ERDA: pseudo-labels that are learnt together with the network, by one term of entropy and alignment."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pcseg import losses
from pcseg.batch import IGNORE
from pcseg.config import ErdaConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams
from pcseg.pseudo.class_queries import ClassQueries
from pcseg.pseudo.clusters import Clusters
from pcseg.pseudo.prototypes import Projection, Prototypes


class Erda(nn.Module):
    """Partial cross-entropy plus ``weight * mean(entropy_weight * H(p) + D(p, q))`` over unlabelled rows.

    q is the prediction; p comes from cosines of the projected features with class prototypes (running means of the
    labelled rows' features), with class queries, or each with its own term. p is not detached: the term trains the
    projection and the backbone through it, and the classifier through q. Queries are also trained on the labelled rows,
    as nothing else tells them what a class is. A class that no label has shown yet gets no probability from prototypes,
    and some from queries.

    Unsupervised, the sure rows of k-means clusters of the input features stand for labelled rows; all the rest is the
    same, and a class is a cluster.

    Args:
        num_classes: K.
        channels: C of ``SegOutput.feats``.
        dim: D of the coordinates.
        clusters: what stands for labels; None: the labels of the data.

    Source: Tang et al., All Points Matter, NeurIPS 2023 (prototypes; order of steps as in the released code: prototypes
    move first, then name the pseudo-labels). Queries and the unsupervised mode are our
    reading of its extension (arXiv 2408.16520), whose text could not be read. Clusters that move on in the space of the
    projected features, with this term alone, were tried on AHN3 and drifted away from the classes.
    """

    def __init__(
        self,
        model: nn.Module,
        labelled: LabelledLoss,
        config: ErdaConfig,
        *,
        num_classes: int,
        channels: int,
        dim: int,
        clusters: Clusters | None = None,
    ):
        super().__init__()
        self.model, self.labelled, self.config, self.clusters = model, labelled, config, clusters
        # Of a generator of its own: with a weight of 0 the run is that of plain supervision, bit for bit.
        with torch.random.fork_rng(devices=[]):
            self.project = Projection(channels)
            self.prototypes = self.queries = None
            if config.pseudo in ("prototypes", "both"):
                self.prototypes = Prototypes(
                    num_classes,
                    channels,
                    momentum=config.momentum,
                    temperature=config.temperature,
                    absent=config.absent,
                )
            if config.pseudo in ("queries", "both"):
                self.queries = ClassQueries(
                    num_classes,
                    channels,
                    dim=dim,
                    layers=config.query_layers,
                    heads=config.query_heads,
                    temperature=config.temperature,
                )

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ()."""
        batch, config = streams["labelled"], self.config
        if self.clusters is not None:
            batch = replace(batch, labels=self.clusters(batch))
            streams = {**streams, "labelled": batch}
        output, terms = self.labelled.step(self.model, streams, levels)
        if not config.weight:
            return terms
        labels = batch.labels
        assert labels is not None
        logits, feats = output.logits.float(), self.project(output.feats.float())
        chosen = torch.ones_like(labels, dtype=torch.bool) if config.rows == "all" else labels == IGNORE
        chosen = _thinned(chosen, config.max_rows)
        if self.prototypes is not None:
            if self.training:
                self.prototypes.update(feats.detach(), labels)
            term = 0 * feats.sum()
            if self.prototypes.ready:
                term = self._term(self.prototypes(feats[chosen]), logits[chosen], feats)
            terms["erda"] = config.weight * term
        if self.queries is not None:
            pseudo = self.queries(feats, batch.coords, batch.offsets)
            terms["erda_queries"] = config.weight * self._term(pseudo[chosen], logits[chosen], feats)
            terms["query_cross_entropy"] = losses.cross_entropy(pseudo, labels)
        return terms

    def _term(self, pseudo_logits: Tensor, logits: Tensor, feats: Tensor) -> Tensor:  # (n, K), (n, K) -> ()
        if not len(logits):
            return 0 * feats.sum()
        config = self.config
        if not config.coadapt:
            pseudo_logits = pseudo_logits.detach()
        values = losses.erda(pseudo_logits, logits, entropy_weight=config.entropy_weight, alignment=config.alignment)
        weights = self.labelled.class_weights
        if not config.class_weighted or weights is None:
            return values.mean()
        of_row = weights[pseudo_logits.detach().argmax(1)]
        return (of_row * values).sum() / of_row.sum()


def _thinned(chosen: Tensor, most: int | None) -> Tensor:  # (N,) bool
    """At most so many of the chosen rows, evenly spaced."""
    if most is None or int(chosen.sum()) <= most:
        return chosen
    rows = torch.nonzero(chosen)[:, 0]
    kept = rows[torch.arange(most, device=rows.device) * len(rows) // most]
    return torch.zeros_like(chosen).index_fill_(0, kept, True)
