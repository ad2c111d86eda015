"""Every global name that the code reads exists: jaxtyping's shape strings keep ruff and pyright from checking that."""

import builtins
import dis
import importlib
import inspect
import pkgutil
import types

import pytest

import jtl

MODULES = [m.name for m in pkgutil.walk_packages(jtl.__path__, "jtl.") if not m.name.endswith("__main__")]


def missing(module):
    """The global names that functions of a module read and nobody defines."""
    code = compile(inspect.getsource(module), module.__name__, "exec")
    stack, names = [code], set()
    while stack:
        found = stack.pop()
        stack += [inner for inner in found.co_consts if isinstance(inner, types.CodeType)]
        if found.co_flags & inspect.CO_OPTIMIZED:  # a function's, whose other names are its own
            names |= {i.argval for i in dis.get_instructions(found) if i.opname == "LOAD_GLOBAL"}
    return sorted(name for name in names if name not in vars(module) and not hasattr(builtins, name))


@pytest.mark.parametrize("name", MODULES)
def test_global_names_exist(name):
    assert missing(importlib.import_module(name)) == []


def test_a_lost_import_is_found(tmp_path):
    module = types.ModuleType("lost")
    module.__file__ = str(tmp_path / "lost.py")
    (tmp_path / "lost.py").write_text("import os\n\n\ndef f(x):\n    return [os.fspath(x), len(jnp.sin(x))]\n")
    exec(compile((tmp_path / "lost.py").read_text(), module.__file__, "exec"), vars(module))
    assert missing(module) == ["jnp"]
