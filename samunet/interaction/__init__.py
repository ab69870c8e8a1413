"""Annotate a volume with clicks, boxes, scribbles and brushes: one engine, with no page and no network in it."""
