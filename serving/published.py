"""The personal models an endpoint may load: one immutable object each, below the endpoint's prefix.

Publishing is one upload; erasing takes every version of the object.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.bucket import Place, erase, exists
from serving.errors import AdapterRefused, EngineError
from serving.sagemaker import EndpointFault, client, encryption, explain

TARGET = re.compile(r"([A-Za-z0-9_-]{1,64})/([A-Za-z0-9_-]{1,64})/([A-Za-z0-9_-]{1,64})\.tar\.gz")
"""A personal model's name at an endpoint: user, person and version."""

PLACE = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64})?")

Container = Literal["http", "triton"]
WARM_UP_S = 420.0  # a model may take 360 s to load


@dataclass(frozen=True)
class EndpointSettings:
    """`models` is the s3://bucket/prefix/ the endpoint loads from (its ModelDataUrl).

    `base_sha256` is the base that the endpoint's container holds; a model of another base is
    refused here, before it is published. `container` is what runs there: our HTTP contract on CPU
    instances, or Triton on GPUs. `draw_role` is assumed for one owner at a time (see
    `serving.sessions`); empty draws with this program's own rights.
    """

    name: str
    models: str
    base_id: str
    base_sha256: str
    region: str = "us-east-1"
    kms_key: str = ""
    endpoint_url: str = ""
    container: Container = "http"
    at_once: int = 4
    warm_up_s: float = WARM_UP_S
    draw_role: str = ""


class Published:
    """The personal models below the endpoint's prefix: one immutable object each."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.place = Place.parse(settings.models)
        self._s3 = client("s3", settings.region, settings.endpoint_url, attempts=4)
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def check_base(self, adapter: Path) -> None:
        """Raises `AdapterRefused` for a model of another base than the endpoint holds."""
        whole = self.settings.container == "http"
        check_base(adapter, self.settings.base_id, self.settings.base_sha256, whole=whole)

    def publish(self, adapter: Path, target: str, *, again: bool = False) -> None:
        """Put the model's archive where the endpoint finds it, unless it is there already."""
        with self._lock:
            if target in self._known and not again:
                return
            key = self.place.prefix + target
            try:
                if again or not exists(self._s3, self.place.bucket, key):
                    # Packing reads what torch wrote; erasing, in the web process, never packs.
                    from serving import archive

                    with tempfile.TemporaryDirectory() as scratch:
                        packed = Path(scratch) / "model.tar.gz"
                        archive.pack(adapter, packed)
                        self._s3.upload_file(
                            str(packed), self.place.bucket, key,
                            ExtraArgs=encryption(self.settings.kms_key),
                        )  # fmt: skip
            except EngineError:
                raise
            except Exception as error:
                raise explain(error, self.settings.name)[0] from error
            self._known.add(target)

    def withdraw(self, place: str) -> int:
        """Remove all models below `<user>` or `<user>/<person>`, or one `<user>/<person>/<version>.
        tar.gz`, with every version of the object.

        Copies in the endpoint's memory and on its disk stay until it lets them go: see
        `serving.hosting.Hosting.recycle`. Raises `EndpointFault` if anything was kept.
        """
        one = TARGET.fullmatch(place) is not None
        if not one and not PLACE.fullmatch(place):
            raise EndpointFault(f"`{place}` is no place of a user, a person or a model.")
        below = self.place.prefix + place + ("" if one else "/")
        try:
            gone = erase(self._s3, self.place.bucket, below)
        except EngineError:
            raise
        except Exception as error:
            raise explain(error, self.settings.name)[0] from error
        with self._lock:
            self._known = {name for name in self._known if not f"{name}/".startswith(f"{place}/")}
        return gone


def check_base(adapter: Path, base_id: str, base_sha256: str, *, whole: bool = False) -> None:
    """Raises `AdapterRefused` for a model of another base than the endpoint holds, and for a whole
    pipeline where the endpoint cannot hold one beside its base.
    """
    try:
        card = json.loads((adapter / "adapter.json").read_text("utf-8"))
        base, digest = str(card["base_id"]), str(card["base_sha256"])
        kind = str(card.get("kind", "adapter"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterRefused("This personal model has no usable adapter.json.") from error
    if (base, digest) != (base_id, base_sha256):
        raise AdapterRefused(
            f"This personal model was trained on the base {base} ({digest[:12]}), but the "
            f"endpoint holds {base_id} ({base_sha256[:12]}). "
            "Train it again, or point the endpoint at its base."
        )
    if kind == "whole" and not whole:
        raise AdapterRefused(
            "This personal model is a whole pipeline; only a multi-model endpoint on CPUs draws "
            "with it. Train it again with AVATAR_AWS_JUMPSTART_RESULT=adapter."
        )
