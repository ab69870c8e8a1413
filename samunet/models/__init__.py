"""Parts that variants compose: plain classes, no registries."""
