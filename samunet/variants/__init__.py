"""One module, or one folder where it is larger, a published way of adapting SAM.

Each has METHOD, a `samunet.variants.method.Method`; its name is the method's in plans, checkpoints and commands. In a
folder `rules` is what planning needs and knows no torch; the other modules are the network. See
documentation/reference/variants.md.
"""
