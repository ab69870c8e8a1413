"""Compare predictions with references: scores, nnU-Net's summary.json, and an HTML report."""
