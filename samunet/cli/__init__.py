"""One module per command: its text is the help, its options are a dataclass, its main calls the pipeline and prints.
Heavy imports happen inside, so --help is instant.
"""
