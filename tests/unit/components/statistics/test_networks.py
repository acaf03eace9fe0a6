"""FID and Inception Score are names for one network with its published weights, and for nothing else."""

from __future__ import annotations

import pytest

from components.statistics.networks import FigureNames


@pytest.mark.parametrize(
    ("network", "distance", "score", "precision"),
    [
        ({"kind": "classifier"}, "fd_classifier", "is_classifier", "precision_classifier"),
        ({"kind": "torchvision:resnet50", "published": False}, "fd_resnet50", "is_resnet50", "precision_resnet50"),
        ({"kind": "inception", "published": False}, "fd_inception", "is_inception", "precision_inception"),
        ({"kind": "inception", "published": True}, "fid", "is", "precision_inception"),
    ],
)
def test_figures_are_named_by_their_network(
    network: dict[str, object], distance: str, score: str, precision: str
) -> None:
    names = FigureNames(network)
    assert (names.distance, names.score, names.precision) == (distance, score, precision)
