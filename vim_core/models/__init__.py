"""Networks: tokenizer, codebook, discriminator, prior, classifier."""
