"""Search the settings of a recipe on its validation split, and train with the best: see `tfkit.tune`."""
