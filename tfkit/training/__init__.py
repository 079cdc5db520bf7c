"""Export: raw input to class probabilities, as a SavedModel that needs no Keras and no tfkit."""
