"""Verbs on arrays: pure functions of numpy arrays, axes (D, H, W)."""
