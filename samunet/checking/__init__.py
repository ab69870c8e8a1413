"""Look at a raw dataset before anything is measured: every file, every case, and cases against each other."""
