"""Measure a raw dataset, check it, and decide a plan."""
