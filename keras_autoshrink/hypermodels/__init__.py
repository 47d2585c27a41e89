"""The HyperModels of KerasTuner that a search builds and trains its candidates by."""
