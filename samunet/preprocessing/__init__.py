"""Bring cases from a file's grid to the network's grid, and back."""
