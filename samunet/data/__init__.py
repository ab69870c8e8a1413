"""Training samples: patches of preprocessed cases, augmented."""
