"""The nouns: frozen dataclasses that need numpy and the standard library only."""
