"""Names that wrappers of modules leave in a file, against the wrappers of torch."""

import made
import numpy as np
import pytest
from loading import same_bits, tree_of
from safetensors.numpy import load_file, save_file

from jtl.params import flatten
from jtl.pretrained.inspect import inspect
from jtl.pretrained.load import load
from jtl.pretrained.wrappers import unwrapped
from jtl.weights import WeightNameError, read
from jtl.weights.mapping.rules import Rule


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = made.folder(tmp_path_factory.mktemp("plain"), made.BERT)
    return folder, load_file(folder / "model.safetensors")


def compiled(name):
    return "_orig_mod." + name


def compiled_blocks(name):
    return name.replace("encoder.layer.0.", "encoder.layer.0._orig_mod.")


def sharded(name):
    inner = name.replace("encoder.layer.0.", "encoder.layer.0._fsdp_wrapped_module._checkpoint_wrapped_module.")
    return "_fsdp_wrapped_module." + inner


def parallel(name):
    return "module." + name


def parallel_within(name):
    return compiled(name).replace("encoder.", "encoder.module.")


@pytest.mark.parametrize("wrap", [compiled, compiled_blocks, sharded, parallel, parallel_within])
def test_wrapped_names_are_read(plain, tmp_path, wrap):
    folder, tensors = plain
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    changed = {wrap(name): array for name, array in tensors.items()}
    assert changed.keys() != tensors.keys()
    save_file(changed, tmp_path / "model.safetensors")
    same_bits(*(dict(flatten(tree_of(load(at)))) for at in (tmp_path, folder)))
    if wrap in (compiled, compiled_blocks, sharded):
        assert "and fit it: jtl.load(" in inspect(tmp_path)


def test_the_names_are_those_that_torch_writes(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    wanted = list(net.state_dict())
    net[0] = torch.nn.DataParallel(net[0])
    torch.save(torch.nn.DataParallel(net).state_dict(), tmp_path / "x.pth")
    tensors = read(tmp_path / "x.pth")
    assert next(iter(tensors)) == "module.0.module.weight"
    assert list(unwrapped(tensors, [Rule(r"(\d+)\.(weight|bias)", r"\1/\2")])) == wanted
    assert list(unwrapped(tensors)) == list(tensors)  # which may be a module's own name


def test_two_tensors_of_one_name_are_refused(tmp_path):
    zeros = np.zeros(1, np.float32)
    save_file({"a.w": zeros, "_orig_mod.a.w": zeros}, tmp_path / "x.safetensors")
    with pytest.raises(WeightNameError, match=r"'.*a\.w' and '.*a\.w' are both 'a\.w' without the names of wrappers"):
        unwrapped(read(tmp_path / "x.safetensors"))
    save_file({"a.w": zeros, "module.a.w": zeros}, tmp_path / "x.safetensors")
    assert len(unwrapped(read(tmp_path / "x.safetensors"), [Rule(r"a\.w", "a/w")])) == 2
