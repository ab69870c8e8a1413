"""Annotation over HTTP on this machine: the page, and the verbs for programs."""
