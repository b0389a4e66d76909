"""Security rules of the CloudFormation template, over its parsed form: each break is a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Template = dict[str, Any]

# Actions that AWS offers no narrower resource for, each used in one statement of ours.
ANY_RESOURCE = {
    "ecr:GetAuthorizationToken", "cloudwatch:PutMetricData", "rekognition:DetectModerationLabels",
    "comprehend:DetectToxicContent", "ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}  # fmt: skip
# Source: Service Authorization Reference, Amazon S3. A condition on a key that a request does not
# have is never met.
WITH_PREFIX = {"s3:ListBucket", "s3:ListBucketVersions"}
MANAGED = {"AmazonAPIGatewayPushToCloudWatchLogs"}
NO_CACHE = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"


def breaks(template: Template) -> list[str]:
    """Everything that is wrong with the template; empty when nothing is."""
    found: list[str] = []
    for rule in RULES:
        found += rule(template)
    return found


def of(template: Template, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, resource.get("Properties", {}))
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    ]


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def statements(template: Template) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every IAM statement as (resource, kind, statement); conditional ones by their yes."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [("rights", one["PolicyDocument"]) for one in properties.get("Policies", [])
                     if isinstance(one, dict)] if resource["Type"] == "AWS::IAM::Role" else []  # fmt: skip
        if resource["Type"] == "AWS::IAM::RolePolicy":
            documents.append(("rights", properties["PolicyDocument"]))
        elif "PolicyDocument" in properties:
            documents.append(("resource", properties["PolicyDocument"]))
        if "AssumeRolePolicyDocument" in properties:
            documents.append(("trust", properties["AssumeRolePolicyDocument"]))
        if "KeyPolicy" in properties:
            documents.append(("key", properties["KeyPolicy"]))
        for kind, document in documents:
            for one in document["Statement"]:
                if "Fn::If" in one:
                    one = one["Fn::If"][1]
                yield name, kind, one


def buckets(template: Template) -> Iterator[str]:
    policies = {text(p["Bucket"]): p["PolicyDocument"]["Statement"]
                for _, p in of(template, "AWS::S3::BucketPolicy")}  # fmt: skip
    for name, bucket in of(template, "AWS::S3::Bucket"):
        block = bucket.get("PublicAccessBlockConfiguration", {})
        names = (
            "BlockPublicAcls",
            "BlockPublicPolicy",
            "IgnorePublicAcls",
            "RestrictPublicBuckets",
        )
        if not all(block.get(one) is True for one in names):
            yield f"{name} does not block public access"
        if "AccessControl" in bucket:
            yield f"{name} sets an ACL"
        if not bucket.get("BucketEncryption"):
            yield f"{name} is not encrypted"
        if bucket.get("VersioningConfiguration", {}).get("Status") != "Enabled":
            yield f"{name} keeps no versions"
        if "NoncurrentVersionExpiration" not in text(bucket.get("LifecycleConfiguration", {})):
            yield f"{name} keeps old versions for ever"
        denied = policies.get(text({"Ref": name}), [])
        if not any(
            s["Effect"] == "Deny" and s["Action"] == "s3:*" and len(many(s["Resource"])) == 2
            and s.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}} for s in denied
        ):  # fmt: skip
            yield f"{name} takes plain HTTP"
    data = dict(of(template, "AWS::S3::Bucket"))["DataBucket"]
    if "aws:kms" not in text(data.get("BucketEncryption")):
        yield "DataBucket is not encrypted with our key"


def rights(template: Template) -> Iterator[str]:
    for name, kind, one in statements(template):
        if one["Effect"] == "Deny":
            continue
        actions, resources = many(one["Action"]), many(one.get("Resource", []))
        if kind == "rights":
            wild = [action for action in actions if "*" in action]
            if wild:
                yield f"{name} may do {wild[0]}"
            if "*" in resources and not set(actions) <= ANY_RESOURCE:
                yield f"{name} may {sorted(set(actions) - ANY_RESOURCE)[0]} on everything"
        if "s3:prefix" in text(one.get("Condition", {})) and not set(actions) <= WITH_PREFIX:
            yield f"{name} is refused {sorted(set(actions) - WITH_PREFIX)[0]}: it knows no prefix"
        who = one.get("Principal")
        if who is not None and "*" in text(who).replace("arn:", "").split('"'):
            yield f"{name} lets anybody in"
    for name, role in of(template, "AWS::IAM::Role"):
        for arn in role.get("ManagedPolicyArns", []):
            if text(arn).rpartition("/")[2].rstrip('"}') not in MANAGED:
                yield f"{name} has a managed policy"
    for kind in ("AWS::IAM::User", "AWS::IAM::AccessKey"):
        if of(template, kind):
            yield "there is a user or a key that does not expire"


def drawing(template: Template) -> Iterator[str]:
    """InvokeEndpoint is bound to one owner's models, and only by the role with the owner's tag."""
    may = [(n, s) for n, k, s in statements(template)
           if k == "rights" and s["Effect"] == "Allow" and "sagemaker:InvokeEndpoint" in many(s["Action"])]  # fmt: skip
    if [name for name, _ in may] != ["DrawRole"]:
        yield f"{[name for name, _ in may]} may invoke the endpoint"
    for name, one in may:
        bound = one.get("Condition", {}).get("StringLike", {}).get("sagemaker:TargetModel")
        if bound != "${aws:PrincipalTag/owner}/*":
            yield f"{name} reaches other owners' models"
    trust = [s for n, k, s in statements(template) if n == "DrawRole" and k == "trust"]
    for one in trust:
        if one.get("Condition", {}).get("StringLike", {}).get("aws:RequestTag/owner") != "?*":
            yield "DrawRole may be assumed without an owner"
        if "FunctionRole" not in text(one["Principal"]):
            yield "DrawRole may be assumed by others than the function"


def encrypted(template: Template) -> Iterator[str]:
    for name, key in of(template, "AWS::KMS::Key"):
        if key.get("EnableKeyRotation") is not True:
            yield f"{name} is never rotated"
    for name, log in of(template, "AWS::Logs::LogGroup"):
        if "RetentionInDays" not in log:
            yield f"{name} keeps its lines for ever"
        if "KmsKeyId" not in log:
            yield f"{name} is not encrypted"
    for name, database in of(template, "AWS::RDS::DBInstance"):
        if database.get("StorageEncrypted") is not True:
            yield f"{name} is not encrypted"
        if database.get("PubliclyAccessible") is not False:
            yield f"{name} can be reached from the internet"
        if "resolve:secretsmanager" not in text(database.get("MasterUserPassword")):
            yield f"{name} has its password in the template"
    for _, settings in of(template, "AWS::RDS::DBParameterGroup"):
        if settings["Parameters"].get("rds.force_ssl") != "1":
            yield "the database takes plain connections"
    for name, topic in of(template, "AWS::SNS::Topic"):
        if "KmsMasterKeyId" not in topic:
            yield f"{name} is not encrypted"
    for name, secret in of(template, "AWS::SecretsManager::Secret"):
        if "SecretString" in secret:
            yield f"{name} is written in the template"
        if "KmsKeyId" not in secret:
            yield f"{name} is not encrypted with our key"
    for name, function in of(template, "AWS::Lambda::Function"):
        variables = function["Environment"]["Variables"]
        if any(word in variable for variable in variables for word in ("PASSWORD", "SIGNING_KEY")):
            yield f"{name} has a secret in its environment"
        if "KmsKeyArn" not in function or "VpcConfig" not in function:
            yield f"{name} is not in the network or its environment not encrypted"
        if variables.get("AVATAR_MODERATION") != "aws" or variables.get("AVATAR_HOST") != "0.0.0.0":
            yield f"{name} does not count as public, or judges by local checks only"


def network(template: Template) -> Iterator[str]:
    for name, group in of(template, "AWS::EC2::SecurityGroup"):
        for rule in group.get("SecurityGroupIngress", []):
            if "CidrIp" in rule or "CidrIpv6" in rule:
                yield f"{name} lets addresses in"
    for name, link in of(template, "AWS::EC2::VPCEndpoint"):
        if link["VpcEndpointType"] == "Interface" and link.get("PrivateDnsEnabled") is not True:
            yield f"{name} is not used"


def asked(template: Template) -> Iterator[str]:
    (_, api), = of(template, "AWS::ApiGateway::RestApi")  # fmt: skip
    body = api["Body"]
    for path, methods in body["paths"].items():
        for method, operation in methods.items():
            if operation.get("security") != [{"users": []}]:
                yield f"{method} {path} is open to anybody"
            if method == "post" and not operation.get("requestBody", {}).get("required"):
                yield f"{method} {path} does not check bodies"
    if body.get("x-amazon-apigateway-request-validator") not in body.get(
        "x-amazon-apigateway-request-validators", {}
    ):
        yield "requests are not validated"
    users = body["components"]["securitySchemes"]["users"]
    if users.get("x-amazon-apigateway-authtype") != "cognito_user_pools":
        yield "Cognito does not say who asks"
    for name, stage in of(template, "AWS::ApiGateway::Stage"):
        settings = stage.get("MethodSettings", [{}])[0]
        if "ThrottlingRateLimit" not in settings or "ThrottlingBurstLimit" not in settings:
            yield f"{name} does not throttle"
        if settings.get("DataTraceEnabled") is not False:
            yield f"{name} logs what people send"
        if "AccessLogSetting" not in stage:
            yield f"{name} has no access log"
    for name, allowed in of(template, "AWS::Lambda::Permission"):
        if "SourceArn" not in allowed:
            yield f"{name} lets every {allowed['Principal']} call"
    for name, pool in of(template, "AWS::Cognito::UserPool"):
        if pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"] is not True:
            yield f"{name}: anybody may sign up"
        if pool["Policies"]["PasswordPolicy"]["MinimumLength"] < 12:
            yield f"{name}: passwords are short"
    for name, client in of(template, "AWS::Cognito::UserPoolClient"):
        if client.get("PreventUserExistenceErrors") != "ENABLED":
            yield f"{name} tells who has an account"
        if "ALLOW_USER_PASSWORD_AUTH" in client["ExplicitAuthFlows"]:
            yield f"{name} sends passwords"
        if client["AllowedOAuthFlows"] != ["code"]:
            yield f"{name} puts tokens into addresses"


def front(template: Template) -> Iterator[str]:
    (_, distribution), = of(template, "AWS::CloudFront::Distribution")  # fmt: skip
    config = distribution["DistributionConfig"]
    for one in [config["DefaultCacheBehavior"], *config["CacheBehaviors"]]:
        if one["ViewerProtocolPolicy"] not in ("https-only", "redirect-to-https"):
            yield "CloudFront serves plain HTTP"
        if one["CachePolicyId"] != NO_CACHE:
            yield "CloudFront caches people's answers"
        if "ResponseHeadersPolicyId" not in one:
            yield "CloudFront sets no security headers"
    for origin in config["Origins"]:
        origin = origin["Fn::If"][1] if "Fn::If" in origin else origin
        if origin["CustomOriginConfig"]["OriginProtocolPolicy"] != "https-only":
            yield f"CloudFront asks {origin['Id']} by plain HTTP"
    if "FrontWall" not in text(config.get("WebACLId")):
        yield "no WAF stands before CloudFront"
    walls = dict(of(template, "AWS::WAFv2::WebACL"))
    if walls["ApiWall"]["DefaultAction"] != {"Block": {}}:
        yield "the API can be reached around CloudFront"
    if not any("x-origin-secret" in text(rule) and rule.get("Action") == {"Allow": {}}
               for rule in walls["ApiWall"]["Rules"]):  # fmt: skip
        yield "nothing tells CloudFront's requests from others"
    if "ApiStage" not in text(of(template, "AWS::WAFv2::WebACLAssociation")):
        yield "no WAF stands before the API"


def watched(template: Template) -> Iterator[str]:
    alarms = of(template, "AWS::CloudWatch::Alarm")
    for name, alarm in alarms:
        if not alarm.get("AlarmActions"):
            yield f"{name} tells nobody"
    wanted = {"ModerationOutage", "FailedDrawings", "FunctionErrors", "ApiErrors", "EndpointErrors"}
    missing = wanted - {name for name, _ in alarms}
    if missing:
        yield f"nobody hears of {sorted(missing)[0]}"
    if not of(template, "AWS::Budgets::Budget"):
        yield "nobody hears of costs"
    jobs = [rule for _, rule in of(template, "AWS::Events::Rule") if "EventPattern" in rule]
    if "Failed" not in text(jobs):
        yield "nobody hears of failed trainings"
    shown = text(of(template, "AWS::CloudWatch::Dashboard"))
    for metric in ("ModelLoadingTime", "ModelCacheHit", "GPUMemoryUtilization", "Refused"):
        if metric not in shown:
            yield f"the dashboard does not show {metric}"


RULES = (
    lambda t: list(buckets(t)), lambda t: list(rights(t)), lambda t: list(drawing(t)),
    lambda t: list(encrypted(t)), lambda t: list(network(t)), lambda t: list(asked(t)),
    lambda t: list(front(t)), lambda t: list(watched(t)),
)  # fmt: skip
