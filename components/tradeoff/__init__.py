"""The `tradeoff` step: accuracy and Fréchet distance over temperature, guidance and acceptance."""
