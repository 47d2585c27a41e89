"""The command `autoshrink`."""
