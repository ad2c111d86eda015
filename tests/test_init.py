import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import jtl


@pytest.mark.parametrize("name", jtl.__all__)
def test_every_public_name_is_there(name):
    assert getattr(jtl, name) is not None


def test_nothing_but_public_names_is_listed():
    """The import of lazy names was listed too."""
    checked = {"jaxtyping"}  # the hook that checks types adds it
    more = {name for name in dir(jtl) if not name.startswith("_")} - set(jtl.__all__) - checked
    assert {name for name in more if f"jtl.{name}" not in sys.modules} == set()  # imported modules of jtl stay


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'finetuen'"):
        jtl.finetuen  # noqa: B018  (the access is the test)


def test_optional_and_forbidden_packages_stay_out():
    """What a GPU machine may lack, and what jtl never runs on, is not imported with the library."""
    code = f"""
import sys
from pathlib import Path
from types import ModuleType
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"grain", "tensorflow_datasets", "tyro", "matplotlib", "sklearn"}}:
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
import jtl
for name in {jtl.__all__!r}:
    getattr(jtl, name)
found = {{"torch", "tensorflow", "transformers", "timm", "clu"}} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_jtl_does_not_import_jax():
    code = "import sys, jtl; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_public_name_hides_behind_a_module_of_that_name():
    """Importing `jtl.load` would put the module in the place of the function."""
    modules = {path.stem for path in Path(jtl.__file__).parent.iterdir()}
    wrong = [name for name in jtl.__all__ if name in modules and not isinstance(getattr(jtl, name), ModuleType)]
    assert not wrong
