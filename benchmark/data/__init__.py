"""Cohorts in, SliceSets out."""
