"""Offline training of the networks that the runtime ships. Needs torch; the runtime does not."""
