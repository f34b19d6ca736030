"""Data sets, one file each, and the transforms they share."""
