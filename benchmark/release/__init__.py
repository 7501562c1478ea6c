"""A package of synthetic slices that a stranger can use without us."""
