"""Use a trained model: predict, explain, find label errors."""
