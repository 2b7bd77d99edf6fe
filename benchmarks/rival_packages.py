"""Public CKA packages under one call: two models, the names of their layers, a loader → a CKA matrix.

They run where they are installed: `pip install pytorch-cka torch_cka cka-pytorch`. All take models whose
one input is a tensor, hook the named layers, average HSIC over the loader's batches, and give a matrix.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Matrix = Callable[[nn.Module, nn.Module, list[str], Any], np.ndarray]


def _pytorch_cka(module: Any) -> Matrix:
    def run(first: nn.Module, second: nn.Module, names: list[str], loader: Any) -> np.ndarray:
        found: Tensor = module.compute_cka(first, second, loader, layers=names, progress=False)[0]
        return found.cpu().numpy()

    return run


def _cka_pytorch(module: Any) -> Matrix:
    def run(first: nn.Module, second: nn.Module, names: list[str], loader: Any) -> np.ndarray:
        cka = module.CKACalculator(first, second, names, names, device=torch.device("cpu"), verbose=False)
        found: Tensor = cka.calculate_cka_matrix(loader, num_epochs=1)
        return found.cpu().numpy()

    return run


def _torch_cka(module: Any) -> Matrix:
    def run(first: nn.Module, second: nn.Module, names: list[str], loader: Any) -> np.ndarray:
        cka = module.CKA(first, second, model1_layers=names, model2_layers=names, device="cpu")
        try:
            with torch.no_grad():
                cka.compare(loader)
        except AssertionError:  # how it says that a value is not a number
            return np.full((len(names), len(names)), np.nan)
        found: Tensor = cka.export()["CKA"]
        return found.cpu().numpy()

    return run


_PACKAGES: dict[str, tuple[str, Callable[[Any], Matrix]]] = {
    "pytorch-cka": ("cka", _pytorch_cka),
    "cka-pytorch": ("cka_pytorch", _cka_pytorch),
    "torch_cka": ("torch_cka", _torch_cka),
}


def installed_packages() -> dict[str, Matrix]:
    """Each package that is here, without what it prints; one that is not is named in one line."""
    found: dict[str, Matrix] = {}
    for name, (module, make) in _PACKAGES.items():
        try:
            found[name] = _silent(make(importlib.import_module(module)))
        except ImportError as missing:
            print(f"{name} is not installed ({missing}): skipped")
    return found


def _silent(run: Matrix) -> Matrix:
    def quiet(first: nn.Module, second: nn.Module, names: list[str], loader: Any) -> np.ndarray:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return run(first, second, names, loader)

    return quiet
