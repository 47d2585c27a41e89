"""The networks: ShrinkCNN of images, ShrinkRNN and its language model of texts."""
