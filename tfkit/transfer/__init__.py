"""Train a classifier on a pretrained backbone, on stored features first, then as a whole."""
