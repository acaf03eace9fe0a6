"""The ways in which data sets of images are kept."""
