"""The training steps: tokenizer, prior, classifier, probe."""
