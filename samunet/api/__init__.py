"""What `import samunet` offers: the work from a dataset to scores, a function a step."""
