"""Finished relevance: heatmaps, weights of several layers, quantization, saving and loading."""
