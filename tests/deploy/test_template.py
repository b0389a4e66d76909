"""The template: linted, safe by rules that notice every way of breaking them, and like the API."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path

import pytest
from cfnlint.api import ManualArgs, lint_file
from cfnlint.decode import cfn_yaml

from studio.rest.routes import openapi, routes
from studio.rest.shapes import AvatarWish, TextToCheck
from studio.settings import Settings
from studio.storage import s3
from tests.deploy.rules import breaks, many

FILE = Path(__file__).parent.parent.parent / "deploy" / "api.yaml"
REMOVE = object()


@pytest.fixture(scope="module")
def template():
    def plain(node):
        if isinstance(node, dict):
            return {str(key): plain(value) for key, value in node.items()}
        if isinstance(node, list):
            return [plain(value) for value in node]
        return str(node) if isinstance(node, str) else node

    return plain(cfn_yaml.load(str(FILE)))


def test_cfn_lint_finds_nothing():
    """In the region with WAF for CloudFront and in one without."""
    found = lint_file(FILE, config=ManualArgs(regions=["us-east-1", "eu-west-1"]))
    assert [str(one) for one in found] == []


def test_no_rule_is_broken(template):
    assert breaks(template) == []


P = "Properties"
MUTATIONS = [
    ("public bucket", ("DataBucket", P, "PublicAccessBlockConfiguration", "BlockPublicPolicy"), False),
    ("unblocked bucket", ("LogBucket", P, "PublicAccessBlockConfiguration"), REMOVE),
    ("bucket by ACL", ("DataBucket", P, "AccessControl"), "PublicRead"),
    ("bucket in the clear", ("DataBucket", P, "BucketEncryption"), REMOVE),
    ("plain HTTP to the bucket", ("DataBucketPolicy", P, "PolicyDocument", "Statement", 0), REMOVE),
    ("plain HTTP to objects", ("LogBucketPolicy", P, "PolicyDocument", "Statement", 0, "Resource"), "arn"),
    ("versions kept for ever", ("DataBucket", P, "LifecycleConfiguration"), REMOVE),
    ("every action", ("FunctionRights", P, "PolicyDocument", "Statement", 3, "Action"), "s3:*"),
    ("a prefix of uploads", ("FunctionRights", P, "PolicyDocument", "Statement", 4, "Action"), "s3:ListBucketMultipartUploads"),
    ("every object", ("FunctionRights", P, "PolicyDocument", "Statement", 3, "Resource"), "*"),
    ("every secret", ("FunctionRights", P, "PolicyDocument", "Statement", 10, "Resource"), "*"),
    ("administrator", ("FunctionRole", P, "ManagedPolicyArns"), ["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ("anybody's role", ("FunctionRole", P, "AssumeRolePolicyDocument", "Statement", 0, "Principal"), {"AWS": "*"}),
    ("other owners' models", ("DrawRole", P, "Policies", 0, "PolicyDocument", "Statement", 0, "Condition"), REMOVE),
    ("any prefix", ("DrawRole", P, "Policies", 0, "PolicyDocument", "Statement", 0, "Condition", "StringLike", "sagemaker:TargetModel"), "*"),
    ("drawing for nobody", ("DrawRole", P, "AssumeRolePolicyDocument", "Statement", 0, "Condition"), REMOVE),
    ("drawing directly", ("FunctionRights", P, "PolicyDocument", "Statement", 7, "Action"), "sagemaker:InvokeEndpoint"),
    ("database in public", ("Database", P, "PubliclyAccessible"), True),
    ("database in the clear", ("Database", P, "StorageEncrypted"), False),
    ("password in the template", ("Database", P, "MasterUserPassword"), "hunter22"),
    ("plain database connections", ("DatabaseSettings", P, "Parameters"), {}),
    ("secret in the template", ("SigningSecret", P, "SecretString"), "hunter22"),
    ("secret in the environment", ("Function", P, "Environment", "Variables", "AVATAR_SIGNING_KEY"), "x"),
    ("local checks only", ("Function", P, "Environment", "Variables", "AVATAR_MODERATION"), "local"),
    ("not public", ("Function", P, "Environment", "Variables", "AVATAR_HOST"), "127.0.0.1"),
    ("log kept for ever", ("FunctionLog", P, "RetentionInDays"), REMOVE),
    ("log in the clear", ("ApiLog", P, "KmsKeyId"), REMOVE),
    ("key never rotated", ("Key", P, "EnableKeyRotation"), False),
    ("open to the internet", ("DatabaseGroup", P, "SecurityGroupIngress", 0), {"CidrIp": "0.0.0.0/0"}),
    ("route without a user", ("Api", P, "Body", "paths", "/classifier", "post", "security"), []),
    ("unchecked requests", ("Api", P, "Body", "x-amazon-apigateway-request-validator"), "none"),
    ("no throttling", ("ApiStage", P, "MethodSettings", 0, "ThrottlingRateLimit"), REMOVE),
    ("prompts in the log", ("ApiStage", P, "MethodSettings", 0, "DataTraceEnabled"), True),
    ("any API may call", ("ApiMay", P, "SourceArn"), REMOVE),
    ("anybody signs up", ("Users", P, "AdminCreateUserConfig", "AllowAdminCreateUserOnly"), False),
    ("tokens in addresses", ("Client", P, "AllowedOAuthFlows", 0), "implicit"),
    ("plain HTTP in front", ("Front", P, "DistributionConfig", "CacheBehaviors", 0, "ViewerProtocolPolicy"), "allow-all"),
    ("answers cached", ("Front", P, "DistributionConfig", "CacheBehaviors", 0, "CachePolicyId"), "658327ea"),
    ("plain HTTP behind", ("Front", P, "DistributionConfig", "Origins", 0, "CustomOriginConfig", "OriginProtocolPolicy"), "http-only"),
    ("no WAF in front", ("Front", P, "DistributionConfig", "WebACLId"), REMOVE),
    ("around CloudFront", ("ApiWall", P, "DefaultAction"), {"Allow": {}}),
    ("no WAF at the API", ("ApiWallStands",), REMOVE),
    ("silent alarm", ("ApiErrors", P, "AlarmActions"), []),
    ("no alarm for checks", ("ModerationOutage",), REMOVE),
    ("no budget", ("Budget",), REMOVE),
    ("no word of failed jobs", ("FailedTrainings",), REMOVE),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "value"), MUTATIONS, ids=[m[0] for m in MUTATIONS])
def test_the_rules_notice(template, name, place, value):
    changed = copy.deepcopy(template)
    node = changed["Resources"]
    for step in place[:-1]:
        node = node[step]
    if value is REMOVE:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    assert breaks(changed), name


def test_every_setting_of_the_function_exists(template):
    variables = template["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
    known = {f"AVATAR_{name.upper()}" for name in Settings.model_fields}
    assert set(variables) <= known


def test_the_function_may_do_what_its_storage_asks_for(template):
    needed = set(re.findall(r'"(s3:[A-Z]\w+)"', inspect.getsource(s3)))
    rights = template["Resources"]["FunctionRights"]["Properties"]["PolicyDocument"]["Statement"]
    given = {action for one in rights for action in many(one.get("Action", []))}
    assert len(needed) > 6 and needed <= given


def test_the_gateway_knows_the_routes_and_bodies_of_the_api(template):
    body = template["Resources"]["Api"]["Properties"]["Body"]
    described = openapi(routes(None, wait_s=0))  # nothing is asked of the studio here
    ours = {(path, m) for path, methods in described["paths"].items() for m in methods}
    theirs = {(path, m) for path, methods in body["paths"].items() for m in methods}
    assert theirs == ours | {("/v1/openapi.json", "get")}
    for shape in (AvatarWish, TextToCheck):
        wanted = shape.model_json_schema()
        told = body["components"]["schemas"][shape.__name__]
        assert set(told["properties"]) == set(wanted["properties"])
        assert told.get("required", []) == wanted.get("required", [])
        assert told["additionalProperties"] is False is wanted["additionalProperties"]
        for name, limits in told["properties"].items():
            meant = wanted["properties"][name]
            options = [meant, *meant.get("anyOf", [])]
            for limit in set(limits) - {"type", "nullable", "pattern"}:
                assert any(o.get(limit) == limits[limit] for o in options), (name, limit)


def test_the_template_is_plain(template):
    """CloudFormation reads no merge keys; and nothing in it names an account or a region."""
    text = FILE.read_text("utf-8")
    assert "<<:" not in text and not re.search(r"[:\-] [&*]\w", text)
    assert not re.search(r"\b\d{12}\b", text.replace("1209600", ""))
    assert len(text.encode()) < 460_800
