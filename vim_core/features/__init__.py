"""Feature networks behind one small interface: what `statistics` and `score` look at images through."""

from vim_core.features.base import CLASSIFIER, INCEPTION, TORCHVISION, Taken, Tap, TapSpec
from vim_core.features.loading import check, load

__all__ = ["CLASSIFIER", "INCEPTION", "TORCHVISION", "Taken", "Tap", "TapSpec", "check", "load"]
