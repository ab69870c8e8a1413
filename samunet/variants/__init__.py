"""One module a published way of adapting SAM.

Each has SOURCE, STARTS_AS, SLICES_MEET, WITHOUT_GRADIENT, a frozen Config, `build(sam, spec, config)`, `preferred(...)` and
`cost(...)`; its file name is its name in plans, checkpoints and commands. See documentation/reference/variants.md.
"""
