"""What a process that a test starts runs first: to import TensorFlow, less a fifth of the time."""

import gc

# It collects only when it is told to, as KerasTuner does before each network.
gc.disable()
