"""Find small neural networks with KerasTuner: AutoShrink (arXiv 1911.09251)."""
