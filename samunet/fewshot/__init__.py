"""A few labeled cases to proposals for the rest: PerSAM, SAM-MPA, and what is worth labeling first."""
