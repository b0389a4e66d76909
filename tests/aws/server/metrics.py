"""What SageMaker reads from a container's log: metrics by regular expression, to CloudWatch."""

from __future__ import annotations

import re
from typing import Any

import boto3

NAMESPACE = "/aws/sagemaker/TrainingJobs"


class Metrics:
    """One CloudWatch, for all jobs."""

    def __init__(self, url: str) -> None:
        self._cloudwatch: Any = boto3.client(
            "cloudwatch", endpoint_url=url, region_name="us-east-1"
        )

    def publish(self, job: str, definitions: list[dict[str, str]], text: str) -> dict[str, float]:
        """Every match of every definition becomes a value; the last of each metric."""
        last: dict[str, float] = {}
        for definition in definitions:
            found = [float(value) for value in re.findall(definition["Regex"], text)]
            if not found:
                continue
            last[definition["Name"]] = found[-1]
            self._cloudwatch.put_metric_data(
                Namespace=NAMESPACE,
                MetricData=[
                    {
                        "MetricName": definition["Name"],
                        "Dimensions": [{"Name": "Host", "Value": f"{job}/algo-1"}],
                        "Value": value,
                    }
                    for value in found
                ],
            )
        return last
