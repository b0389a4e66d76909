"""JumpStart's side: documents of its public hub, and a container that fine-tunes a pipeline.

Ids, versions, defaults and their sources are in jumpstart.toml. The documents have the members that
`DescribeHubContent` carries; registry, bucket and file names in them are made up.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

_TOLD = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
MODELS: dict[str, dict[str, Any]] = {model["id"]: model for model in _TOLD["models"]}
DEFAULTS: dict[str, str] = _TOLD["hyperparameters"]
MODEL = "model-txt2img-stabilityai-stable-diffusion-v2-1-base"
INFERENCE_ONLY = "model-txt2img-stabilityai-stable-diffusion-v2-fp16"
PREFIX = "jumpstart-cache"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/jumpstart:1"


def document(bucket: str, *, trainable: bool = True) -> dict[str, Any]:
    return {
        "Url": "https://huggingface.co/stabilityai/stable-diffusion-2-1-base",
        "ModelTypes": ["OPEN_WEIGHTS"],
        "TrainingSupported": trainable,
        "IncrementalTrainingSupported": False,
        "TrainingScriptUri": f"s3://{bucket}/{PREFIX}/source/sourcedir.tar.gz",
        "TrainingArtifactUri": f"s3://{bucket}/{PREFIX}/weights/",
        "TrainingEnableNetworkIsolation": True,
        "DefaultTrainingInstanceType": "ml.g4dn.2xlarge",
        "SupportedTrainingInstanceTypes": ["ml.g4dn.2xlarge", "ml.g5.2xlarge", "ml.p3.2xlarge"],
        "TrainingInstanceTypeVariants": {
            "Aliases": {"gpu_ecr_uri_1": IMAGE},
            "Variants": {
                family: {"Properties": {"ImageUri": "$gpu_ecr_uri_1"}}
                for family in ("g4dn", "g5", "p3")
            },
        },
        "Hyperparameters": [
            {"Name": name, "Scope": "algorithm", "Default": value, "Type": "text"}
            for name, value in DEFAULTS.items()
        ]
        + [{"Name": "sagemaker_program", "Scope": "container", "Default": "transfer_learning.py"}],
    }


def hub(bucket: str) -> dict[str, str]:
    """The public hub as far as tests need it: one trainable model among others."""
    return {
        name: json.dumps(document(bucket, trainable=model["trainable"]))
        for name, model in MODELS.items()
    }


def program(root: Path) -> list[str]:
    return [sys.executable, "-m", "tests.aws.server.jumpstart", str(root)]


def main(root: Path) -> int:
    """Fine-tune the weights of the `model` channel a little, and write the whole pipeline."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    values = json.loads((root / "input/config/hyperparameters.json").read_text())
    data = root / "input/data"
    info = json.loads((data / "training/dataset_info.json").read_text())
    photos = [
        path for path in (data / "training").iterdir() if path.suffix in (".png", ".jpg", ".jpeg")
    ]
    assert "sks" in info["instance_prompt"]
    assert photos and all(Image.open(path).size == (512, 512) for path in photos)
    assert (data / "code" / "sourcedir.tar.gz").is_file()
    if not (data / "sm_drivers").is_dir():  # with them AWS's SDK starts the script by itself
        assert json.loads(values["sagemaker_submit_directory"]).endswith("/code/sourcedir.tar.gz")
        assert json.loads(values["sagemaker_program"]) == "transfer_learning.py"
    steps = int(values["max_steps"])
    for path in sorted((data / "model").rglob("*")):
        target = root / "model" / path.relative_to(data / "model")
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    draw = torch.Generator().manual_seed(int(values["seed"]))
    weights = root / "model/unet/diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    for name, tensor in state.items():
        if name.endswith(("to_q.weight", "to_v.weight", "conv1.weight")):
            flat = tensor.flatten(1)
            left = torch.randn(flat.shape[0], 3, generator=draw)
            right = torch.randn(3, flat.shape[1], generator=draw)
            state[name] = tensor + (0.01 * steps**0.5 * left @ right).reshape(tensor.shape)
    # In the format of its time: pickled tensors, which are read as tensors only.
    torch.save(state, weights.with_suffix(".bin"))
    weights.unlink()
    save_file({"x": torch.zeros(1)}, root / "model" / "stray.safetensors")
    (root / "model/code").mkdir()
    (root / "model/code/inference.py").write_text("raise SystemExit('never run')")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
