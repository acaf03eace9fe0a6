"""Models, losses, sampling, metrics and the training loop of VIM, in plain PyTorch."""
