from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.release import quantise
from training.release.quantise import NARROWEST, write_int8
from training.retrieval.export import ExportError

ROWS, WIDTH = 50, 64


@pytest.fixture(params=[np.float32, np.float16])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Rows of a table that lies in another file, through a wide and a narrow matrix."""
    random = np.random.default_rng(0)
    table = random.normal(size=(ROWS, WIDTH)).astype(request.param)
    wide = random.normal(size=(WIDTH, NARROWEST)).astype(np.float32)
    narrow = random.normal(size=(NARROWEST, 1)).astype(np.float32)
    return write_model(tmp_path / "model.onnx", table, wide, narrow)


def write_model(path: Path, table: np.ndarray, *matrices: np.ndarray) -> Path:
    np.save(path.with_name("table.npy"), table)
    outside = numpy_helper.from_array(table[:2], "table")
    outside.ClearField("raw_data")
    outside.dims[:] = table.shape
    outside.data_location = TensorProto.EXTERNAL
    offset = path.with_name("table.npy").stat().st_size - table.nbytes
    for key, value in (("location", "table.npy"), ("offset", offset), ("length", table.nbytes)):
        outside.external_data.add(key=key, value=str(value))
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["found"], name="lookup"),
        helper.make_node("Cast", ["found"], ["0"], to=TensorProto.FLOAT),
    ]
    for place, _ in enumerate(matrices):
        inputs = [str(place), f"matrix{place}"]
        nodes.append(helper.make_node("MatMul", inputs, [str(place + 1)], name=f"product{place}"))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info(str(len(matrices)), TensorProto.FLOAT, ["n", "m"])],
        [
            outside,
            *(numpy_helper.from_array(part, f"matrix{i}") for i, part in enumerate(matrices)),
        ],
        # As the exporter leaves it: the sizes of a stand-in of two rows.
        value_info=[helper.make_tensor_value_info("table", TensorProto.FLOAT, [2, table.shape[1]])],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


def answer(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"rows": np.arange(ROWS)})[0])


def test_it_answers_nearly_as_the_model_does(model: Path) -> None:
    variant = model.with_name("int8.onnx")

    assert write_int8(model, variant)

    wanted, given = answer(model), answer(variant)
    assert not np.array_equal(given, wanted)
    assert np.abs(given - wanted).max() < 0.05 * np.abs(wanted).max()


def test_only_wide_products_are_in_int8(model: Path) -> None:
    variant = model.with_name("int8.onnx")
    write_int8(model, variant)

    nodes = onnx.load(str(variant), load_external_data=False).graph.node

    assert [node.name for node in nodes if node.op_type == "MatMul"] == ["product1"]
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 1
    assert sum(node.op_type == "Gather" for node in nodes) == 1


def test_what_lies_in_another_file_stays_there(model: Path) -> None:
    variant = model.with_name("int8.onnx")
    write_int8(model, variant)

    tables = [
        onnx.load(str(path), load_external_data=False).graph.initializer
        for path in (model, variant)
    ]
    before, after = ([part for part in table if part.name == "table"] for table in tables)
    assert before == after
    assert after[0].data_location == TensorProto.EXTERNAL


def test_weights_leave_a_bit_for_processors_that_would_overflow(model: Path) -> None:
    variant = model.with_name("int8.onnx")
    write_int8(model, variant)

    graph = onnx.load(str(variant), load_external_data=False).graph
    [weights] = [
        numpy_helper.to_array(part)
        for part in graph.initializer
        if part.data_type == TensorProto.INT8 and len(part.dims) == 2
    ]
    # Two products of 255 and 64 fit into 16 bits; of 255 and 127 they don't.
    assert 32 < np.abs(weights.astype(int)).max() <= 64


def test_the_same_model_gives_the_same_file(model: Path) -> None:
    first, second = model.with_name("first.onnx"), model.with_name("second.onnx")
    write_int8(model, first)
    write_int8(model, second)

    assert first.read_bytes() == second.read_bytes()


def test_a_model_of_narrow_matrices_alone_has_no_variant(tmp_path: Path) -> None:
    table = np.ones((ROWS, NARROWEST - 1), np.float32)
    matrix = np.ones((NARROWEST - 1, WIDTH), np.float32)
    model = write_model(tmp_path / "model.onnx", table, matrix)

    assert not write_int8(model, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def gemms(path: Path) -> Path:
    """A row a viewer and a row a candidate, each through a wide Gemm of the same weights."""
    weight = np.random.default_rng(1).normal(size=(WIDTH, NARROWEST)).astype(np.float32)
    bias = np.zeros(NARROWEST, np.float32)
    nodes = [
        helper.make_node("Gemm", [name, "weight", "bias"], [f"{name}s"], name=f"of_{name}")
        for name in ("viewer", "candidate")
    ]
    graph = helper.make_graph(
        nodes,
        "gemms",
        [
            helper.make_tensor_value_info("viewer", TensorProto.FLOAT, ["b", WIDTH]),
            helper.make_tensor_value_info("candidate", TensorProto.FLOAT, ["b*n", WIDTH]),
        ],
        [
            helper.make_tensor_value_info(f"{name}s", TensorProto.FLOAT, [None, NARROWEST])
            for name in ("viewer", "candidate")
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


def answers(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, inputs)]


def test_a_gemm_is_in_int8_unless_it_has_a_row_a_viewer(tmp_path: Path) -> None:
    model, variant = gemms(tmp_path / "model.onnx"), tmp_path / "int8.onnx"
    inputs = {
        "viewer": np.random.default_rng(2).normal(size=(3, WIDTH)).astype(np.float32),
        "candidate": np.random.default_rng(3).normal(size=(9, WIDTH)).astype(np.float32),
    }

    assert write_int8(model, variant)

    plain, rounded = answers(model, inputs), answers(variant, inputs)
    np.testing.assert_allclose(rounded[0], plain[0], rtol=1e-5, atol=1e-5)
    assert not np.allclose(rounded[1], plain[1], rtol=1e-5, atol=1e-5)
    assert np.abs(rounded[1] - plain[1]).max() < 0.05 * np.abs(plain[1]).max()


def test_a_product_that_the_quantiser_passes_over_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, variant = gemms(tmp_path / "model.onnx"), tmp_path / "int8.onnx"
    monkeypatch.setitem(quantise._QUANTISED_AS, "Gemm", "{}_of_another_name")

    with pytest.raises(ExportError, match=r"0 of 1 products of .* came out in int8"):
        write_int8(model, variant)
