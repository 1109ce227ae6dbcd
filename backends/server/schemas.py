"""Schemas of requests and responses for the OpenAPI document; nothing is parsed with these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "Error", "InferenceRequest", "InferenceResponse", "Live", "ModelMetadata", "ModelReady", "Ready", "ServerMetadata",
]  # fmt: skip


class Error(BaseModel):
    """Why a request was refused; every error of every path has this shape."""

    error: str = Field(description="One line")


class Live(BaseModel):
    """The server runs."""

    live: bool


class Ready(BaseModel):
    """All models take requests."""

    ready: bool


class ServerMetadata(BaseModel):
    """Name and abilities of the server."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    """The model takes requests."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor by its name, datatype and shape, -1 for any number of images."""

    name: str
    datatype: Literal["FP32", "UINT8"]
    shape: list[int]


class ModelLimits(BaseModel):
    """Limits of one request."""

    max_batch_size: int
    max_body_bytes: int


class ModelMetadata(BaseModel):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelLimits


class InputParameters(BaseModel):
    """Where the data of an input are."""

    binary_data_size: int | None = Field(None, ge=0, description="Number of bytes behind the JSON object, in place of data")


class Input(BaseModel):
    """Images, row-major; FP32 in [-1, 1] or UINT8, as the metadata of the model say."""

    name: Literal["images"]
    datatype: Literal["FP32", "UINT8"]
    shape: list[int] = Field(min_length=2, description="Images, channels, height, width; or as the metadata of the model say")
    data: list[Any] | None = Field(None, description="Numbers, flat or nested; left out with binary_data_size")
    parameters: InputParameters | None = None


class OutputParameters(BaseModel):
    """Format of an output."""

    binary_data: bool | None = Field(None, description="As raw bytes behind the JSON object")


class Output(BaseModel):
    """A requested output."""

    name: Literal["logits"]
    parameters: OutputParameters | None = None


class RequestParameters(BaseModel):
    """The chip, and the format of outputs that do not set their own."""

    bit_error_rate: float | None = Field(None, ge=0, le=1, description="Bit error rate of the memory; 0 if not given")
    chip_seed: int | None = Field(None, ge=0, lt=2**64, description="Seed of the chip; 0 if not given")
    binary_data_output: bool | None = Field(None, description="Outputs as raw bytes behind the JSON object")


class InferenceRequest(BaseModel):
    """A batch of images for one chip."""

    id: str | None = Field(None, description="Returned in the response")
    parameters: RequestParameters | None = None
    inputs: list[Input] = Field(min_length=1, max_length=1)
    outputs: list[Output] | None = Field(None, max_length=1)


class ResponseParameters(BaseModel):
    """Where the data of an output are."""

    binary_data_size: int


class ResponseOutput(BaseModel):
    """Logits, a row an image; numbers, or raw bytes behind the JSON object."""

    name: Literal["logits"]
    datatype: Literal["FP32"]
    shape: list[int]
    data: list[float] | None = None
    parameters: ResponseParameters | None = None


class InferenceResponse(BaseModel):
    """Logits of a batch."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]
