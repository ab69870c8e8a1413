"""Segment Anything for any input size, over the modules of the segment_anything package.

Nothing here knows that SAM is being adapted; adapters attach through samunet.sam.encoder.Sites.
"""
