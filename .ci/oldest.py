"""Prints pyproject's lower bounds as pip constraints, so that the oldest versions it promises are the ones tested."""

import re
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirement in project["dependencies"]:
    found = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement)
    if found is None:
        sys.exit(f"pyproject.toml: {requirement!r} has no plain lower bound, as name>=version")
    print(f"{found[1]}=={found[2]}")
    if found[1] == "jax":
        print(f"jaxlib=={found[2]}")
