"""The picture of a fit: one file for each model that has one of its own."""
