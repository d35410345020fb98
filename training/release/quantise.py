"""The dynamic int8 variant of an exported model."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from training.retrieval.export import ExportError

NARROWEST = 32
"""Fewest rows and columns of a matrix that is multiplied in int8. To round what comes in takes
longer than a narrower one saves, and the narrow ones add up the final scores."""
_QUANTISED_AS = {"MatMul": "{}", "Gemm": "{}_MatMul"}
"""By operator, the name under which the quantiser knows a node: it makes a MatMul of a Gemm."""


def write_int8(source: Path, target: Path) -> bool:
    """Writes the variant of the ONNX model at `source` to `target`, in the same folder.

    Matrix products by trained weights are in int8; all else stays, lookups too. What lies in other
    files, as the viewer tower's videos do, stays there.

    Raises:
        ExportError: a product stayed in float32.

    Returns:
        False, and nothing is written, where no matrix is wide enough.
    """
    model = onnx.load(str(source), load_external_data=False)
    nodes = _wide_products(model.graph)
    if not nodes:
        return False
    outside = {
        part.name: copy.deepcopy(part)
        for part in model.graph.initializer
        if part.data_location == TensorProto.EXTERNAL
    }
    _replace(model.graph, {name: _stand_in(part) for name, part in outside.items()})
    # Sizes that the exporter noted of its own stand-ins contradict these.
    del model.graph.value_info[:]
    # The exporter has folded constants already, which is all that the quantiser asks for.
    add_pre_process_metadata(model)
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=list(_QUANTISED_AS),
        nodes_to_quantize=nodes,
        # Inputs are always unsigned. Times unsigned weights they took longer in every case
        # measured: ONNX Runtime's fast kernels are for signed ones.
        weight_type=QuantType.QInt8,
        # 7 bits of weights. x86 without VNNI adds two products of 8 bits in 16, which overflows
        # there and nowhere else: a release would rank otherwise on another processor.
        reduce_range=True,
        # A scale for each column takes no longer, and makes up for the lost bit.
        per_channel=True,
    )
    made = onnx.load(str(target), load_external_data=False)
    products = sum(node.op_type == "MatMulInteger" for node in made.graph.node)
    if products != len(nodes):
        raise ExportError(
            f"{products} of {len(nodes)} products of {source} came out in int8; check by what "
            "names ONNX Runtime's quantiser knows them"
        )
    _replace(made.graph, outside)
    del made.graph.value_info[:]
    onnx.save(made, str(target))
    return True


def _wide_products(graph: onnx.GraphProto) -> list[str]:
    """Names of the products by a constant matrix at least NARROWEST each way.

    Not of those that the exporter makes a Gemm of and that have a row a viewer: they take no time,
    and what is known of a viewer is of very different sizes, for which one scale is too coarse.
    """
    sizes = {part.name: tuple(part.dims) for part in graph.initializer}
    rows = {value.name: _first_size(value) for value in (*graph.value_info, *graph.input)}
    viewers = _first_size(graph.input[0])
    return [
        _QUANTISED_AS[node.op_type].format(node.name)
        for node in graph.node
        if node.op_type in _QUANTISED_AS
        and len(sizes.get(node.input[1], ())) == 2
        and min(sizes[node.input[1]]) >= NARROWEST
        and not (node.op_type == "Gemm" and rows.get(node.input[0]) == viewers)
    ]


def _first_size(value: onnx.ValueInfoProto) -> str | int | None:
    """Of what has sizes, the first: a name where it isn't always the same."""
    sizes = value.type.tensor_type.shape.dim
    return (sizes[0].dim_param or sizes[0].dim_value) if sizes else None


def _stand_in(part: onnx.TensorProto) -> onnx.TensorProto:
    """A constant of the same name, type and width, but of two rows of zeros."""
    values = np.zeros((2, *part.dims[1:]), helper.tensor_dtype_to_np_dtype(part.data_type))
    return numpy_helper.from_array(values, part.name)


def _replace(graph: onnx.GraphProto, parts: dict[str, onnx.TensorProto]) -> None:
    """Puts `parts` in place of the constants of the same names."""
    for place in graph.initializer:
        if place.name in parts:
            place.CopyFrom(parts[place.name])
