"""Training methods, one Lightning module a file."""
