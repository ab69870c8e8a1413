"""Who is better, by how much, and shown how; nnU-Net run beside."""
