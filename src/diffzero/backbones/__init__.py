"""Backbones by family, one file each; `cards.yaml` lists checkpoints as data."""
