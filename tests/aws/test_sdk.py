"""AWS's own SDK against our server, unmodified, in an environment of its own.

The SDK brings mlflow, pyarrow and 700 MB, so neither the product nor `make test` installs it. To run
this test, name a Python that has it:

    python3 -m venv sdk && sdk/bin/pip install sagemaker-core==2.27.0 sagemaker-train==1.27.0
    SAGEMAKER_SDK_PYTHON=sdk/bin/python .venv/bin/python -m pytest tests/aws/test_sdk.py
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import pytest
from PIL import Image

from tests.aws.server import jumpstart as hub
from tests.tiny_bases import tiny_base

PYTHON = os.environ.get("SAGEMAKER_SDK_PYTHON", "")
ROLE = "arn:aws:iam::123456789012:role/avatar-training"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/echo:1"

ECHO = """
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200); self.send_header('Content-Type', 'application/json')
        self.end_headers(); self.wfile.write(b'{"got": %d}' % len(body))
http.server.HTTPServer(('127.0.0.1', int(os.environ['SAGEMAKER_BIND_TO_PORT'])), H).serve_forever()
"""


@pytest.mark.skipif(not PYTHON, reason="needs AWS's SDK; see the top of this file")
def test_the_sdk_trains_by_jumpstart_and_asks_an_endpoint(cloud, tmp_path, monkeypatch):
    # This SDK sends an image's alias as if it were a name, so the document has the names themselves.
    cloud.sagemaker.hub = {
        name: told.replace('"$gpu_ecr_uri_1"', json.dumps(hub.IMAGE))
        for name, told in hub.hub(cloud.bucket).items()
    }
    cloud.jobs.programs["jumpstart"] = hub.program
    cloud.endpoints.programs["echo"] = lambda definition: [sys.executable, "-c", ECHO]
    monkeypatch.setenv("AWS_ENDPOINT_URL_IAM", cloud.s3_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", cloud.s3_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", cloud.s3_url)
    switches = tmp_path / "sdk.yaml"
    switches.write_text(
        "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"
    )
    monkeypatch.setenv("SAGEMAKER_USER_CONFIG_OVERRIDE", str(switches))
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    s3 = boto3.client("s3")
    s3.put_object(Bucket=cloud.bucket, Key=f"{hub.PREFIX}/source/sourcedir.tar.gz", Body=b"code")
    base = tiny_base(tmp_path / "tiny", "starter")
    for path in base.rglob("*"):
        if path.is_file():
            s3.upload_file(
                str(path), cloud.bucket, f"{hub.PREFIX}/weights/{path.relative_to(base)}"
            )
    stream = io.BytesIO()
    Image.new("RGB", (512, 512), (90, 60, 30)).save(stream, "PNG")
    s3.put_object(Bucket=cloud.bucket, Key="photos/0.png", Body=stream.getvalue())
    info = json.dumps({"instance_prompt": "photo of sks person"}).encode()
    s3.put_object(Bucket=cloud.bucket, Key="photos/dataset_info.json", Body=info)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("person/1/adapter.json"))
    s3.put_object(Bucket=cloud.bucket, Key="models/u/p/m.tar.gz", Body=archive.getvalue())
    asked = {
        "model": hub.MODEL, "role": ROLE, "bucket": cloud.bucket, "image": IMAGE,
        "photos": f"s3://{cloud.bucket}/photos/", "target": "u/p/m.tar.gz",
    }  # fmt: skip
    program = Path(__file__).with_name("sdk_program.py")
    ended = subprocess.run(
        [PYTHON, str(program), json.dumps(asked)],
        capture_output=True, text=True, timeout=500, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    line = next(line for line in ended.stdout.splitlines() if line.startswith("RESULT "))
    done = json.loads(line.removeprefix("RESULT "))
    assert done["trained"]["status"] == "Completed", done
    assert cloud.sagemaker.bucket.read(done["trained"]["model"])[:2] == b"\x1f\x8b"
    assert json.loads(done["served"]["answer"])["got"] > 0
    sent = cloud.server.called("CreateTrainingJob")[0].parameters
    assert sent["HyperParameters"]["max_steps"] == "9"
