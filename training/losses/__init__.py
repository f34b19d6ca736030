"""Losses, one file each, with the formula in the docstring."""
