"""Procedural images with references, made of nothing but a seed."""
