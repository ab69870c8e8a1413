"""Training: settings, schedule, loop and log."""
