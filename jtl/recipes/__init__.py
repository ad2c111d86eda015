"""Recipes: each is a Python file with one frozen dataclass `Recipe` that holds the objects of a run.

`jtl train NAME` runs one, `jtl describe NAME` shows its network, and each of its numbers is an option of the command
(`--dotted.name value`). Your own recipe is a file like these: `jtl train my_recipe.py`.
"""
