"""Image tables, code tables, decoding, augmentation and the order of training samples."""
