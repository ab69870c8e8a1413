"""From a raw dataset to a plan: measure, check, decide."""
