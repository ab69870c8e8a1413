"""Datasets of other layouts, brought into nnU-Net's raw folder."""
