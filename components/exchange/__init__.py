"""Import and export: other tools' tables, pretrained models, a user's own images."""
