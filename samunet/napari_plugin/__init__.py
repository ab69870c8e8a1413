"""Annotate within napari, with the engine and the files of samunet_annotate; the only room that knows napari."""
