"""Models, losses, sampling, metrics and the training loop of VIM, in plain PyTorch."""

__version__ = "0.1.0"
