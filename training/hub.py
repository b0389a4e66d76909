"""JumpStart's public hub: its models, and what the training of one needs and may be told."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import RequestRefused, TrainingError
from training.request import TrainingRequest

HUB = "SageMakerPublicHub"
TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("jumpstart.toml").read_text("utf-8"))


@dataclass(frozen=True)
class Offer:
    """A model that JumpStart offers. `trainable` and `instances` are None where only names were
    asked for.
    """

    id: str
    version: str
    trainable: bool | None = None
    instances: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HubModel:
    """What a training needs of a JumpStart model, from its document in the public hub."""

    id: str
    version: str
    image: str
    script: str
    weights: str
    defaults: Mapping[str, str]
    instances: tuple[str, ...]
    isolated: bool

    @classmethod
    def read(cls, answer: Mapping[str, Any], instance: str) -> HubModel:
        """Raises `TrainingError` for a model that cannot be trained, or not on this instance."""
        name = str(answer.get("HubContentName", ""))
        try:
            told = json.loads(answer["HubContentDocument"])
            if not told["TrainingSupported"]:
                raise TrainingError(f"JumpStart does not train {name}, it only serves it.")
            supported = tuple(told.get("SupportedTrainingInstanceTypes") or ())
            if supported and instance not in supported:
                raise TrainingError(
                    f"JumpStart trains {name} on {', '.join(supported)}, not on {instance}."
                )
            return cls(
                id=name,
                version=str(answer["HubContentVersion"]),
                image=_image(told, instance),
                script=str(told["TrainingScriptUri"]),
                weights=str(told["TrainingArtifactUri"]),
                defaults={
                    str(entry["Name"]): str(entry.get("Default"))
                    for entry in told.get("Hyperparameters") or ()
                    if entry.get("Scope", "algorithm") == "algorithm"
                },
                instances=supported,
                isolated=bool(told.get("TrainingEnableNetworkIsolation", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"JumpStart's document of {name} cannot be read ({error})."
            ) from error


def hyperparameters(request: TrainingRequest, instance: str) -> dict[str, str]:
    """A request as JumpStart's hyperparameters: all strings, by their documented names.

    Prior preservation is asked for only where the instance can hold it. Raises `RequestRefused`
    naming a field whose value JumpStart would not take.
    """
    family = instance.removeprefix("ml.").partition(".")[0]
    prior = request.class_folder is not None and request.prior_weight > 0
    values: dict[str, Any] = {
        "max_steps": request.steps or TABLE["usual_steps"],
        "seed": request.seed % (1 << 31),
        "with_prior_preservation": prior and family in TABLE["roomy_families"],
    }
    if request.learning_rate is not None:
        values["learning_rate"] = request.learning_rate
    if values["with_prior_preservation"]:
        assert request.class_folder is not None
        values["prior_loss_weight"] = request.prior_weight
        values["num_class_images"] = max(1, len(list(request.class_folder.glob("*.png"))))
    return {name: checked(name, value) for name, value in values.items()}


def checked(name: str, value: Any) -> str:
    """One hyperparameter as text. Raises `RequestRefused` for an unknown name or a bad value."""
    rule = TABLE["hyperparameters"].get(name)
    if rule is None:
        known = ", ".join(TABLE["hyperparameters"])
        raise RequestRefused(name, value, f"JumpStart knows {known}.")
    if rule["type"] == "bool":
        if not isinstance(value, bool):
            raise RequestRefused(name, value, "True or False.")
        return str(value)
    if rule["type"] == "text":
        if value not in rule["choices"]:
            raise RequestRefused(name, value, f"one of {', '.join(rule['choices'])}.")
        return str(value)
    try:
        number = int(value) if rule["type"] == "int" else float(value)
    except (TypeError, ValueError) as error:
        raise RequestRefused(name, value, f"a number ({rule['type']}).") from error
    if not rule["least"] <= number <= rule["most"]:
        raise RequestRefused(name, value, f"{rule['least']} to {rule['most']}.")
    return str(number)


def defaults_of(model: HubModel) -> dict[str, str]:
    """The hub's own defaults, without those that mean "not set"."""
    own = {name: str(rule["default"]) for name, rule in TABLE["hyperparameters"].items()}
    joined = {**own, **model.defaults}
    return {
        name: value
        for name, value in joined.items()
        if value not in ("None", "") and not name.startswith("sagemaker_")
    }


def _image(told: Mapping[str, Any], instance: str) -> str:
    """The image for an instance: by its type, its family, or the document's general one.

    A name that begins with `$` is an alias of the document. Raises ValueError without any.
    """
    table = told.get("TrainingInstanceTypeVariants") or {}
    variants = table.get("Variants") or {}
    family = instance.removeprefix("ml.").partition(".")[0]
    image = ""
    for name in (family, instance):
        properties = (variants.get(name) or {}).get("Properties") or {}
        image = properties.get("ImageUri") or properties.get("image_uri") or image
    image = image or str(told.get("TrainingEcrUri") or "")
    if image.startswith("$"):
        image = str((table.get("Aliases") or {}).get(image[1:], ""))
    if not image[:12].isdigit():
        raise ValueError(f"no image for {instance}: {image!r}")
    return image


def offers(sagemaker: Any, part: str = "txt2img", *, details: bool = False) -> list[Offer]:
    """JumpStart's models whose name contains `part`; `details` reads the document of each."""
    found: list[Offer] = []
    more: dict[str, str] = {}
    while True:
        answer = sagemaker.list_hub_contents(
            HubName=HUB, HubContentType="Model", NameContains=part, **more
        )
        for entry in answer["HubContentSummaries"]:
            name, version = str(entry["HubContentName"]), str(entry["HubContentVersion"])
            found.append(_detailed(sagemaker, name) if details else Offer(name, version))
        if not answer.get("NextToken"):
            return found
        more = {"NextToken": answer["NextToken"]}


def _detailed(sagemaker: Any, name: str) -> Offer:
    answer = sagemaker.describe_hub_content(
        HubName=HUB, HubContentType="Model", HubContentName=name
    )
    version = str(answer["HubContentVersion"])
    try:
        told = json.loads(answer["HubContentDocument"])
    except ValueError:
        return Offer(name, version)
    instances = tuple(told.get("SupportedTrainingInstanceTypes") or ())
    return Offer(name, version, bool(told.get("TrainingSupported")), instances)
