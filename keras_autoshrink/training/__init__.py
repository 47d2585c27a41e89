"""The training in full of the network that a search has found."""
