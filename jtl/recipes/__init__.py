"""Recipes: each is a Python file with one frozen dataclass `Recipe` that holds the real objects of a run.

`jtl train NAME` runs one, `jtl describe NAME` shows its network, and every number of it is an option of the
command (`--dotted.name value`). A recipe of one's own is a file like these: `jtl train my_recipe.py`.
"""
