"""Differentially private training: clipping, sampling, accounting, and a statement of what holds."""
