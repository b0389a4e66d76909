"""Forwards a person's requests to the resident base, naming the adapter beside this file."""

import asyncio
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

INPUTS = ("prompt", "negative_prompt", "gen_args", "payload")
OUTPUTS = ("generated_image", "info")


class TritonPythonModel:
    """The base watches `presence`: when a person is unloaded, it forgets the weights."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        card = json.loads((folder / "adapter.json").read_text("utf-8"))
        if "base_id" not in card:
            raise pb_utils.TritonModelException("adapter.json names no base")
        self.folder = str(folder.resolve())
        self.presence = (
            Path(tempfile.gettempdir())
            / "avatar-studio-people"
            / hashlib.sha256(self.folder.encode()).hexdigest()
        )
        self.presence.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.presence.write_text(str(os.getpid()))

    async def execute(self, requests: list[object]) -> list[object]:
        return list(await asyncio.gather(*(self._forward(request) for request in requests)))

    async def _forward(self, request: object) -> object:
        found = [pb_utils.get_input_tensor_by_name(request, name) for name in INPUTS]
        adapter = pb_utils.Tensor("adapter", np.array([[self.folder.encode()]], dtype=object))
        inner = pb_utils.InferenceRequest(
            model_name="base",
            requested_output_names=list(OUTPUTS),
            inputs=[tensor for tensor in found if tensor is not None] + [adapter],
        )
        answer = await inner.async_exec()
        if answer.has_error():
            return pb_utils.InferenceResponse(error=answer.error())
        return pb_utils.InferenceResponse(
            [pb_utils.get_output_tensor_by_name(answer, name) for name in OUTPUTS]
        )

    def finalize(self) -> None:
        self.presence.unlink(missing_ok=True)
