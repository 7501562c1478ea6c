"""Synthetic sets that somebody sent → SliceSets."""
