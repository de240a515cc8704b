"""The kind of a weight file is told by its content; what is none is named, and nothing but tensors
is ever unpickled."""

import argparse
import json
import pickle
import shlex
import shutil
import sys
import tarfile
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fmlora_lab.backbone.weight_files import read_tensors
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
WRITERS = {
    "safetensors": save_file,
    "torch": torch.save,
    "torch before 1.6": lambda t, file: torch.save(t, file, _use_new_zipfile_serialization=False),
    "numpy": lambda t, file: np.savez(file.open("wb"), **{k: v.numpy() for k, v in t.items()}),
}


class Ran:
    """Unpickled, it leaves a trace in `Ran.trace`."""

    trace: ClassVar[list[str]] = []

    def __reduce__(self):
        return Ran.trace.append, ("ran",)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".npz", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_kind_is_told_by_content_and_not_by_the_ending(tmp_path, kind, ending):
    file = tmp_path / f"weights{ending}"
    WRITERS[kind](TENSORS, file)
    found = read_tensors(file)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_16_bit_types_come_out_as_they_are(tmp_path, kind, dtype):
    WRITERS[kind]({"a": TENSORS["a.weight"].to(dtype)}, tmp_path / "weights")
    found = read_tensors(tmp_path / "weights")["a"]
    assert found.dtype == dtype and torch.equal(found.float(), TENSORS["a.weight"])


def test_dictionaries_in_dictionaries_are_joined_and_other_values_left(tmp_path):
    state = {"model": TENSORS, "optimizer": {"state": {0: {"step": torch.ones(())}}}, "epoch": 3}
    torch.save(state, tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth")
    assert list(found) == ["model.a.weight", "model.a.bias", "optimizer.state.0.step"]


NEEDS = {
    "a namespace": ({"model": TENSORS, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    "a whole module": (torch.nn.Linear(3, 2), r"torch\.nn\.modules\.linear\.Linear"),
    "a number of NumPy's": ({"model": TENSORS, "best": np.float64(3)}, r"numpy\.\S+"),
    "code": ({"model": TENSORS, "hook": Ran()}, r"\S+"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("what", NEEDS)
def test_what_needs_unpickling_is_refused_and_not_unpickled(tmp_path, what, legacy):
    value, named = NEEDS[what]
    file = tmp_path / "weights.pth"
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match=f"holds {named} besides tensors, .* python -c ") as error:
        read_tensors(file)
    assert "\n" not in str(error.value) and Ran.trace == []


def test_a_bare_pickle_and_a_torchscript_program_are_not_even_begun(tmp_path):
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps({"model": Ran()}))
    with pytest.raises(BadInput, match="holds a bare pickle, which takes unpickling"):
        read_tensors(file)
    assert Ran.trace == []
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"program/{name}", b"")
    with pytest.raises(BadInput, match=r"holds a TorchScript program, .*torch\.jit\.load"):
        read_tensors(file)


@pytest.mark.parametrize("name", ["namespace.pth", "module.pth", "bare.pkl"])
def test_the_command_that_is_given_converts_the_file(tmp_path, monkeypatch, name):
    file = tmp_path / "with a space" / name
    file.parent.mkdir()
    if name == "bare.pkl":
        file.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in TENSORS.items()}}))
    elif name == "module.pth":
        module = torch.nn.Linear(3, 2)
        module.load_state_dict({k.removeprefix("a."): v for k, v in TENSORS.items()})
        torch.save({"model": torch.nn.ModuleDict({"a": module}), "epoch": 3}, file)
    else:
        torch.save({"model": TENSORS, "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(BadInput) as error:
        read_tensors(file)
    python, c, code, *arguments = shlex.split(str(error.value).partition("converts it: ")[2])
    assert (python, c) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    found = read_tensors(file.with_suffix(".tensors.pth"))
    assert found.keys() == {f"model.{tensor}" for tensor in TENSORS}
    assert all(torch.equal(found[f"model.{k}"], v) for k, v in TENSORS.items())


def packed(file):
    with tarfile.open(file, "w:gz") as archive:
        archive.add(__file__, "weights.pth")


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/pytorch_model.bin", b"0")


NO_WEIGHTS = {
    "empty": (lambda f: f.write_bytes(b""), "is empty; allowed: safetensors, PyTorch"),
    "text": (lambda f: f.write_text("see the wiki"), "is no weight file; allowed: safetensors"),
    "LFS": (
        lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "is a Git LFS pointer",
    ),
    "web page": (lambda f: f.write_text("\n<!DOCTYPE html><html>"), "is a web page"),
    "index": (lambda f: f.write_text(json.dumps({"weight_map": {"a": "b"}})), "is JSON"),
    "npy": (lambda f: np.save(f.open("wb"), np.ones(3)), "is one NumPy array"),
    "HDF5": (lambda f: f.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file"),
    "GGUF": (lambda f: f.write_bytes(b"GGUF" + bytes(99)), "is a GGUF file"),
    "packed": (packed, "is a packed file: unpack it"),
    "zipped": (zipped, "is an archive of model/pytorch_model.bin; unpack it"),
    "a tensor": (lambda f: torch.save(torch.ones(3), f), "no tensors with names, but a Tensor"),
    "no tensors": (lambda f: torch.save({"lr": 1, "epoch": 2}, f), "but a dict of lr, epoch"),
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_what_is_no_weight_file_is_named_for_what_it_is(tmp_path, what, ending):
    write, said = NO_WEIGHTS[what]
    file = tmp_path / f"weights{ending}"
    write(file)
    if what == "text" and ending == ".safetensors":
        said = "is no readable safetensors file"
    with pytest.raises(BadInput, match=said) as error:
        read_tensors(file)
    assert str(file) in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"there is no file .*nowhere"):
        read_tensors(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadInput, match=r"is a folder; give a file of it: model\.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_anywhere_is_refused_and_named(tmp_path, kind):
    whole, file = tmp_path / "whole", tmp_path / "weights"
    WRITERS[kind](TENSORS, whole)
    content = whole.read_bytes()
    for end in range(0, len(content) - 1, max(len(content) // 40, 1)):
        file.write_bytes(content[:end])
        with pytest.raises(BadInput, match=str(file)):
            read_tensors(file)
    shutil.copy(whole, file)
    assert read_tensors(file).keys() == TENSORS.keys()
