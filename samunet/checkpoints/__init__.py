"""Files of trained weights: samunet's own, models as one zip, and those of the methods' authors."""
