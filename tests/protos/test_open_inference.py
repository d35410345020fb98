"""The Open Inference Protocol is on the wire what its public contract says."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor

from vireo.inference import model_config_pb2
from vireo.inference import open_inference_pb2 as pb

MESSAGES = {
    **pb.DESCRIPTOR.message_types_by_name,
    **model_config_pb2.DESCRIPTOR.message_types_by_name,
}
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
FIELDS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "1 bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 bool ready",
    "ModelReadyRequest": "1 string name, 2 string version",
    "ModelReadyResponse": "1 bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "1 string name, 2 string version, 3 string* extensions",
    "ModelMetadataRequest": "1 string name, 2 string version",
    "ModelMetadataResponse": "1 string name, 2 string* versions, 3 string platform, "
    "4 TensorMetadata* inputs, 5 TensorMetadata* outputs",
    "ModelMetadataResponse.TensorMetadata": "1 string name, 2 string datatype, 3 int64* shape",
    "ModelInferRequest": "1 string model_name, 2 string model_version, 3 string id, "
    "4 ParametersEntry* parameters, 5 InferInputTensor* inputs, "
    "6 InferRequestedOutputTensor* outputs, 7 bytes* raw_input_contents",
    "ModelInferRequest.InferInputTensor": "1 string name, 2 string datatype, 3 int64* shape, "
    "4 ParametersEntry* parameters, 5 InferTensorContents contents",
    "ModelInferRequest.InferRequestedOutputTensor": "1 string name, 2 ParametersEntry* parameters",
    "ModelInferResponse": "1 string model_name, 2 string model_version, 3 string id, "
    "4 ParametersEntry* parameters, 5 InferOutputTensor* outputs, 6 bytes* raw_output_contents",
    "ModelInferResponse.InferOutputTensor": "1 string name, 2 string datatype, 3 int64* shape, "
    "4 ParametersEntry* parameters, 5 InferTensorContents contents",
    "ModelConfigRequest": "1 string name, 2 string version",
    "ModelConfigResponse": "1 ModelConfig config",
    "ModelConfig": "1 string name, 2 string platform, 4 int32 max_batch_size, "
    "5 ModelInput* input, 6 ModelOutput* output, 17 string backend",
    "ModelInput": "1 string name, 2 DataType data_type, 4 int64* dims",
    "ModelOutput": "1 string name, 2 DataType data_type, 3 int64* dims",
    "InferParameter": "1 bool bool_param, 2 int64 int64_param, 3 string string_param, "
    "4 double double_param, 5 uint64 uint64_param",
    "InferTensorContents": "1 bool* bool_contents, 2 int32* int_contents, "
    "3 int64* int64_contents, 4 uint32* uint_contents, 5 uint64* uint64_contents, "
    "6 float* fp32_contents, 7 double* fp64_contents, 8 bytes* bytes_contents",
}
_TYPES = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string"}
_TYPES |= {12: "bytes", 13: "uint32"}


def message(path: str) -> Descriptor:
    outer, _, inner = path.partition(".")
    found = MESSAGES[outer]
    return found.nested_types_by_name[inner] if inner else found


def test_the_service_has_the_methods_of_the_contract() -> None:
    assert SERVICE.full_name == "inference.GRPCInferenceService"
    names = [
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
        "ModelConfig",
    ]
    assert [method.name for method in SERVICE.methods] == names
    for method in SERVICE.methods:
        assert method.input_type.full_name == f"inference.{method.name}Request"
        assert method.output_type.full_name == f"inference.{method.name}Response"


def test_no_message_is_without_its_row_here() -> None:
    assert {name.partition(".")[0] for name in FIELDS} == set(MESSAGES)
    for outer, descriptor in MESSAGES.items():
        for inner in descriptor.nested_types:
            assert inner.name == "ParametersEntry" or f"{outer}.{inner.name}" in FIELDS


@pytest.mark.parametrize("path", FIELDS)
def test_fields_have_the_numbers_types_and_names_of_the_contract(path: str) -> None:
    found = []
    for field in message(path).fields:
        named = field.message_type or field.enum_type
        kind = named.name if named else _TYPES[field.type]
        found.append(f"{field.number} {kind}{'*' if field.is_repeated else ''} {field.name}")
    assert ", ".join(found) == FIELDS[path]


def test_datatypes_have_the_numbers_of_the_contract() -> None:
    names = (
        "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
    )
    values = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values
    assert [(each.number, each.name) for each in values] == [
        (number, f"TYPE_{name}") for number, name in enumerate(names.split())
    ]
