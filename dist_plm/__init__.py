"""dist_plm: pretraining of transformer language models on data, tensor and pipeline parallel process grids."""

__version__ = "0.1.0"
