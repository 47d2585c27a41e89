"""The data: images and texts, checked, split and put into batches."""
