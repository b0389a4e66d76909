"""The resident base as Triton's Python backend wants it; everything else is in `serving.triton`."""

import json

import triton_python_backend_utils as pb_utils

from serving.triton.resident import INPUTS, Answer, Resident, Settings


class TritonPythonModel:
    """One base for every person's model in this server."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        given = {key: value["string_value"] for key, value in parameters.items()}
        self.resident = Resident(Settings(**given))

    def execute(self, requests: list[object]) -> list[object]:
        calls = [{name: _text(request, name) for name in INPUTS} for request in requests]
        return [_response(answer) for answer in self.resident.draw(calls)]

    def finalize(self) -> None:
        self.resident.close()


def _text(request: object, name: str) -> str | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    return bytes(tensor.as_numpy().reshape(-1)[0]).decode("utf-8", "replace")


def _response(answer: Answer) -> object:
    if answer.refused is not None:
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(answer.refused, getattr(pb_utils.TritonError, answer.code))
        )
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("generated_image", answer.pictures),
            pb_utils.Tensor("info", answer.info),
        ]
    )
