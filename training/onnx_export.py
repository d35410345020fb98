"""Export of modules to ONNX; staging compares their outputs with PyTorch's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn
from torch.export import Dim

Inputs = dict[str, npt.NDArray[Any]]
"""Arrays by the name of the model's input."""


def export(
    module: nn.Module,
    example: Inputs,
    axes: Mapping[str, tuple[str, ...]],
    output: str,
    path: Path,
    opset: int | None = None,
) -> None:
    """Write a module to `path`.

    Args:
        module: has a single output.
        example: valid inputs.
        axes: names of each input's leading, dynamic axes; inputs in the order of arguments.
        output: name of the output.
        path: the file; its folder is created.
        opset: version of the operators; the exporter's default if None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # It warns about every optional package that is missing.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dims = {axis: Dim(axis) for names in axes.values() for axis in names}
    shapes = [{place: dims[axis] for place, axis in enumerate(names)} for names in axes.values()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter's own deprecations and shared axis names.
        torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(example[name]) for name in axes),
            path,
            input_names=list(axes),
            output_names=[output],
            opset_version=opset,
            dynamic_shapes=tuple(shapes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
