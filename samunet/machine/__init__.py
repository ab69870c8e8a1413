"""What the machine offers: its devices and precision, its threads, and bars of progress."""
