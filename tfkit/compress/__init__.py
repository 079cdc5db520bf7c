"""Compression that trains: pruning, clustering, quantization-aware training, with tfmot, measured."""
