"""Results → pages for people."""
