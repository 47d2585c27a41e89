"""AutoShrink as KerasTuner knows it: tuner, oracle, trials, files, workers."""
