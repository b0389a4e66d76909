"""`avatar-studio aws deploy | status | destroy` against moto's CloudFormation, over HTTP."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from cfnlint.decode import cfn_yaml
from typer.testing import CliRunner

from studio.cli.app import app
from studio.cloud import bundle
from tests.aws.fixtures import point_boto3_at

FILE = Path(__file__).parent.parent.parent.parent / "deploy" / "api.yaml"
# What moto cannot make from a template; what names one of these is left out with it.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")
NOT_IN_MOTO = {"AWS::RDS::DBInstance"}


@pytest.fixture
def account(monkeypatch, tmp_path) -> Iterator[str]:
    """An account with a default network. moto reads templates from `localhost` only."""
    from moto.iam.access_control import PermissionResult
    from moto.server import ThreadedMotoServer

    # moto applies a bucket policy's Deny without its condition: plain HTTP would be refused here.
    monkeypatch.setattr(
        "moto.s3.models.FakeBucket.get_permission", lambda *_: PermissionResult.NEUTRAL
    )
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = f"http://localhost:{server.get_host_and_port()[1]}"
    # All of moto's servers in one process share one account: other tests' buckets would be here.
    httpx.post(f"{url}/moto-api/reset").raise_for_status()
    point_boto3_at(monkeypatch, url)
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AVATAR_AWS_ENDPOINT_URL", url)
    yield url
    server.stop()


@pytest.fixture
def template(tmp_path) -> Path:
    """Our template, without what moto cannot make."""
    parsed = plain(cfn_yaml.load(str(FILE)))
    resources = parsed["Resources"]
    gone = {name for name, one in resources.items() if one["Type"] in NOT_IN_MOTO}
    while more := {n for n, one in resources.items() if n not in gone and gone & set(named(one))}:
        gone |= more
    parsed["Resources"] = {n: one for n, one in resources.items() if n not in gone}
    parsed["Outputs"] = {n: o for n, o in parsed["Outputs"].items() if not gone & set(named(o))}
    path = tmp_path / "template.json"
    path.write_text(json.dumps(parsed))
    return path


def plain(node):
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return str(node) if isinstance(node, str) else node


def named(node) -> Iterator[str]:
    """The resources that a part of a template refers to."""
    if isinstance(node, list):
        for value in node:
            yield from named(value)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "Ref":
                yield value
            elif key == "Fn::GetAtt":
                yield value[0] if isinstance(value, list) else value.split(".")[0]
            elif key == "Fn::Sub":
                text = value if isinstance(value, str) else value[0]
                yield from (one.split(".")[0] for one in re.findall(r"\$\{([^!}]+)\}", text))
            elif key == "DependsOn":
                yield from [value] if isinstance(value, str) else value
            else:
                yield from named(value)


@pytest.fixture
def code(tmp_path) -> Path:
    path = tmp_path / "function-0123456789abcdef.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("studio/__init__.py", "")
    return path


def run(*words: str) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["aws", *words, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_up_changed_and_down_again(account, template, code):
    words = [
        "--zip",
        str(code),
        "--template",
        str(template),
        "--set",
        "EndpointInstance=ml.g4dn.xlarge",
    ]
    words += ["--set", "EndpointImage=1.dkr.ecr.us-east-1.amazonaws.com/avatar-triton:1"]
    assert run("status") == (
        0,
        {"stack": "avatar-studio", "state": "absent", "outputs": {}, "reasons": []},
    )
    exit_code, made = run("deploy", *words)
    assert (exit_code, made["state"]) == (0, "CREATE_COMPLETE"), made
    s3 = boto3.client("s3")
    parts = boto3.client("cloudformation").describe_stack_resources(StackName="avatar-studio")
    made = {
        p.get("LogicalResourceId"): p.get("PhysicalResourceId") for p in parts["StackResources"]
    }
    bucket = made["DataBucket"]
    rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"].endswith(made["Key"])
    assert boto3.client("kms").get_key_rotation_status(KeyId=made["Key"])["KeyRotationEnabled"]
    log = {"logGroupNamePrefix": "/avatar-studio/avatar-studio/function"}
    logs = boto3.client("logs")
    assert logs.describe_log_groups(**log)["logGroups"][0]["retentionInDays"] == 30
    exit_code, changed = run("deploy", *words, "--set", "LogDays=60")
    assert (exit_code, changed["state"]) == (0, "UPDATE_COMPLETE"), changed
    assert run("status")[1]["state"] == "UPDATE_COMPLETE"
    # moto makes the bucket without what the template says of versions.
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):  # old versions and a delete marker
        s3.put_object(Bucket=bucket, Key="studio/users/u/a.png", Body=bytes([number]))
    s3.delete_object(Bucket=bucket, Key="studio/users/u/a.png")
    exit_code, told = run("destroy")
    assert exit_code == 2 and "--yes avatar-studio" in told["error"]["hint"]
    assert s3.list_object_versions(Bucket=bucket)["Versions"]
    exit_code, told = run("destroy", "--yes", "avatar-studio")
    assert (exit_code, told["state"]) == (0, "absent")
    assert any("KMS key" in sentence for sentence in told["remains"])
    assert s3.list_buckets()["Buckets"] == []
    assert run("status")[1]["state"] == "absent"
    assert run("destroy", "--yes", "avatar-studio") == (
        0,
        {"stack": "avatar-studio", "state": "absent", "remains": []},
    )


def test_a_template_that_aws_does_not_take_says_why(account, template, code, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("Resources: {A: {Type: AWS::S3::Bucket, DependsOn: [Nothing]}")
    exit_code, told = run("deploy", "--zip", str(code), "--template", str(bad))
    assert exit_code == 1 and told["error"]["message"]
    exit_code, told = run("deploy", "--zip", str(tmp_path / "none.zip"))
    assert exit_code == 2 and "none.zip" in told["error"]["message"]
    assert run("deploy", "--set", "LogDays")[0] == 2


def test_without_rights_the_sentence_names_what_was_not_allowed(account, monkeypatch, tmp_path):
    monkeypatch.setenv("AVATAR_AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    exit_code, told = run("status")
    assert exit_code == 1 and "look at the stack" in told["error"]["message"]


def test_the_code_holds_what_the_function_imports_and_no_page(tmp_path):
    """Our half of the zip; the wheels' half needs an index, and is built when deploying."""
    names = {name for name, _ in bundle._code()}
    assert {"studio/rest/lambda_handler.py", "moderation/policy.toml", "moderation/toxicity.npz",
            "studio/migrations/versions/0001_records.py"} <= names  # fmt: skip
    assert not [
        n for n in names if n.startswith(("studio/ui", "studio/samples", "tests", "models"))
    ]
    files = dict(bundle._code())
    first = bundle._zipped(tmp_path, files)
    again = bundle._zipped(tmp_path / "again", dict(reversed(files.items())))
    assert first.name == again.name and first.read_bytes() == again.read_bytes()
