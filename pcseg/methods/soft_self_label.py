"""Soft self-labelling with Potts relaxations, direct descent, and hard labels, on nearest or dense neighbourhoods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pcseg import losses
from pcseg.batch import IGNORE, PointBatch
from pcseg.config import SoftSelfLabelConfig
from pcseg.losses.potts import coupling
from pcseg.methods.labelled_loss import TERMS, LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams
from pcseg.ops import GridEdges
from pcseg.pseudo.graph_cut import expand
from pcseg.pseudo.neighborhoods import Contrast, dense_lattice, nearest_edges
from pcseg.pseudo.soft_labels import Pairwise, potts_on_edges, potts_on_lattice, solve_soft_labels


class SoftSelfLabel(nn.Module):
    """Partial cross-entropy, then, after a warm-up on it alone, a loss on the unlabelled rows:

    - ``split``: soft labels y are found for the batch, ``eta * sum H(y, q) + lambda * Potts(y)`` with y one-hot at the
      labelled rows, by gradient descent; then the network learns ``eta * H(y, q)``, without the Potts term.
    - ``direct``: the network learns ``eta * entropy(q) + lambda * Potts(q)`` itself. On the dense neighbourhood with
      the relaxation ``bl`` and eta 0 this is the dense-CRF loss.
    - ``hard_argmax``: as split, with the most likely class of the network as label.
    - ``hard_graph_cut``: labels from alpha-expansion on the network's costs and the Potts model, learnt with a loss
      that allows for their being wrong.

    Each is averaged over the rows it looks at, or (``normalization="rows"``) all sums, those of the labelled rows
    included, are divided by the number of rows, as the printed formula has it. ``observed`` then tells the energy a row
    of the latest batch's soft labels, before and after their descent.

    Args:
        contrasts: features that weigh the edges.

    Source: Zhang and Boykov, CVPR 2025; dense-CRF loss: Tang et al. 2018; hard labels: Marin et al. 2021, Robust Trust
    Region. Which normalisation the paper uses could not be read.
    """

    def __init__(
        self,
        model: nn.Module,
        labelled: LabelledLoss,
        config: SoftSelfLabelConfig,
        *,
        contrasts: tuple[Contrast, ...],
    ):
        super().__init__()
        self.model, self.labelled, self.config, self.contrasts = model, labelled, config, contrasts
        self.observed: dict[str, Tensor] = {}
        """Curves beside the terms of the loss."""

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ()."""
        batch, config = streams["labelled"], self.config
        output, terms = self.labelled.step(self.model, streams, levels)
        labels = batch.labels
        assert labels is not None
        if progress < config.warmup:
            return terms
        log_probs = torch.log_softmax(output.logits.float(), 1)
        unlabelled = labels == IGNORE
        rows = torch.tensor(max(1, batch.num_rows), device=labels.device)
        total = rows if config.normalization == "rows" else unlabelled.sum()
        if config.normalization == "rows":
            share = (~unlabelled).sum() / rows
            terms = {name: term * share if name in TERMS else term for name, term in terms.items()}
        if config.optimization == "direct":
            entropy = losses.masked_mean(losses.entropy(output.logits.float()), unlabelled, total)
            terms["entropy"] = config.unary_weight * entropy
            terms["potts"] = config.pairwise_weight * self._pairwise(batch).energy(log_probs) / rows
            return terms
        if config.optimization == "split":
            cost = coupling(self._soft_targets(batch, log_probs, labels), log_probs, config.coupling)
        else:
            cost = self._hard_cost(batch, log_probs, labels)
        terms["self_label"] = config.unary_weight * losses.masked_mean(cost, unlabelled, total)
        return terms

    def _pairwise(self, batch: PointBatch) -> Pairwise:
        config = self.config
        if config.neighborhood == "dense":
            assert config.relaxation in ("bl", "q", "nq")
            lattice = dense_lattice(batch, self.contrasts, position_bandwidth=config.position_bandwidth)
            return potts_on_lattice(lattice, config.relaxation)
        return potts_on_edges(self._edges(batch), config.relaxation)

    def _edges(self, batch: PointBatch) -> GridEdges:
        return nearest_edges(batch, self.contrasts, k=self.config.k, connectivity=self.config.connectivity)

    def _soft_targets(self, batch: PointBatch, log_probs: Tensor, labels: Tensor) -> Tensor:  # (N, K) logarithms
        config = self.config
        solved = solve_soft_labels(
            log_probs,
            labels,
            self._pairwise(batch),
            kind=config.coupling,
            unary_weight=config.unary_weight,
            pairwise_weight=config.pairwise_weight,
            steps=config.solver_steps,
            lr=config.solver_lr,
            tolerance=config.solver_tolerance,
        )
        rows = max(1, batch.num_rows)
        self.observed = {"energy_before": solved.first_energy / rows, "energy_after": solved.last_energy / rows}
        return solved.log_targets

    def _hard_cost(self, batch: PointBatch, log_probs: Tensor, labels: Tensor) -> Tensor:  # (N,)
        config = self.config
        if config.optimization == "hard_argmax":
            hard = log_probs.detach().argmax(1)
            return -log_probs.gather(1, hard.unsqueeze(1))[:, 0]
        edges = self._edges(batch)
        scaled = edges._replace(edge_weight=edges.edge_weight * config.pairwise_weight)
        hard = expand(-config.unary_weight * log_probs.detach(), scaled, labels)
        classes = log_probs.shape[1]
        # The source's 0.944 to 0.952, for 21 classes: nearly what a label that says nothing has.
        noise = 0.99 * (classes - 1) / classes if config.label_noise is None else config.label_noise
        return robust_cross_entropy(log_probs, hard, noise)


def robust_cross_entropy(
    log_probs: Tensor,  # (N, K) float
    labels: Tensor,  # (N,) int64 in [0, K)
    noise: float,
) -> Tensor:  # (N,)
    """``-log((1 - K e / (K - 1)) q + e / (K - 1))``, q the probability of the label and e its chance of being wrong.

    Raises:
        ValueError: a noise outside [0, (K - 1) / K): beyond, a label is evidence against its class.

    Source: Marin et al. 2021, Robust Trust Region (noise model of hard self-labels).
    """
    classes = log_probs.shape[1]
    if not 0 <= noise < (classes - 1) / classes:
        raise ValueError(
            f"robust_cross_entropy: noise must be at least 0 and below (K - 1) / K = {(classes - 1) / classes:.4g}, "
            f"got {noise}"
        )
    q = log_probs.gather(1, labels.unsqueeze(1))[:, 0].exp()
    return -torch.log((1 - classes * noise / (classes - 1)) * q + noise / (classes - 1))
