"""Learning to segment what prompts show from procedural scenes alone: where scenes come from, and what is asked."""
