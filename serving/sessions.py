"""SageMaker's runtime for one owner at a time, by a role whose session is tagged with the owner.

The role's policy binds `sagemaker:TargetModel` to the tag, so that IAM too, and not this program
alone, keeps one owner from another's model. Source: SageMaker developer guide, "Control
access to multi-model endpoints"; IAM user guide, "Passing session tags in AWS STS".
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from serving.sagemaker import EndpointFault, client, explain

TAG = "owner"
SESSION_S = 3600  # most that a role may give to a role
SPARE_S = 300.0  # a call may take this long after it was begun
MOST_OWNERS = 200


class Sessions:
    """Clients by owner, each until its session is about to end. Safe to use from many threads."""

    def __init__(self, role: str, region: str, endpoint_url: str = "", *, pool: int = 10) -> None:
        self._role = role
        self._place = (region, endpoint_url)
        self._pool = pool
        self._sts = client("sts", region, endpoint_url, attempts=3)
        self._clients: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        self._lock = threading.Lock()

    def runtime(self, owner: str) -> Any:
        """A `sagemaker-runtime` client that may only name targets below `owner`.

        Raises `EndpointFault` when the role cannot be assumed.
        """
        with self._lock:
            found = self._clients.get(owner)
            if found is not None and time.monotonic() < found[1]:
                return found[0]
            until = time.monotonic() + SESSION_S - SPARE_S
            made = client(
                "sagemaker-runtime", *self._place, attempts=1, pool=self._pool,
                credentials=self._assumed(owner),
            )  # fmt: skip
            self._clients[owner] = (made, until)
            self._clients.move_to_end(owner)
            while len(self._clients) > MOST_OWNERS:
                self._clients.popitem(last=False)
            return made

    def _assumed(self, owner: str) -> dict[str, str]:
        try:
            answer = self._sts.assume_role(
                RoleArn=self._role,
                RoleSessionName="draw",
                DurationSeconds=SESSION_S,
                Tags=[{"Key": TAG, "Value": owner}],
            )
            given = answer["Credentials"]
            return {
                "aws_access_key_id": given["AccessKeyId"],
                "aws_secret_access_key": given["SecretAccessKey"],
                "aws_session_token": given["SessionToken"],
            }
        except Exception as error:
            fault, _ = explain(error, "STS")
            raise EndpointFault(f"The role that draws cannot be assumed. {fault}") from error
