"""dist_plm: pretraining of transformer language models on data, tensor, pipeline and context parallel process grids."""

__version__ = "0.1.0"
