r"""Name tables, one per source naming: what a file calls each tensor, and the path of the model's parameter.

Paths are those of one tree: `backbone/...` and `head/...` are parameters, `stats/backbone/...` running
statistics. A file that counts its layers from 0 has a rule for each layer, as jtl counts from 1.
"""
