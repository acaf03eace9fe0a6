"""Loss terms and perceptual networks."""
