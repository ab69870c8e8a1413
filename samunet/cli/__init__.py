"""One module per command: parse, call the pipeline, print. Heavy imports happen inside, so --help is instant."""
