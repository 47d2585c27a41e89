"""Searches over the cells of a space: no Keras, no KerasTuner, no files."""
