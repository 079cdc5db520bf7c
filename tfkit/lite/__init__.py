"""From a trained model to the smallest TFLite file that is still as good, and the proof."""
