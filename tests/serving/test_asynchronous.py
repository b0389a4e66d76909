"""Orders to an asynchronous endpoint: our contract container as a process, and no machine when idle."""

from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import replace

import boto3
import pytest

from serving import orders
from serving.asynchronous import IN_LINE, AsyncEngine, BySize
from serving.errors import AdapterRefused, EngineError, RequestRefused
from serving.local import LocalEngine
from serving.orderbook import AsyncSettings, Orders, Ticket
from serving.plans import AsyncPlan, HostingError
from serving.sagemaker import EndpointFault
from tests.serving.test_endpoint import IMAGE, ROLE, apart, asked, hosting, in_service

__all__ = ["hosting"]


def plan(cloud, **changes):
    values = {
        "name": "avatars-async", "image": IMAGE, "role": ROLE, "instance": "ml.g5.xlarge",
        "orders": f"s3://{cloud.bucket}/orders/",
    }  # fmt: skip
    return AsyncPlan(**(values | changes))


def settings(cloud, base, **changes):
    values = {
        "name": "avatars-async", "orders": f"s3://{cloud.bucket}/orders/", "base_id": base.id,
        "base_sha256": base.sha256, "poll_s": 0.1, "per_order": 2,
    }  # fmt: skip
    return AsyncSettings(**(values | changes))


@pytest.fixture
def base(bases):
    return bases["starter"]


PING = (
    "import http.server, os\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers()\n"
    "http.server.HTTPServer(('127.0.0.1', int(os.environ['SAGEMAKER_BIND_TO_PORT'])), H)"
    ".serve_forever()\n"
)


@pytest.fixture
def quick(cloud):
    """A container that only answers the health check."""
    cloud.endpoints.programs["avatar-endpoint"] = lambda definition: [sys.executable, "-c", PING]
    return cloud


@pytest.fixture
def in_line(quick, base, hosting):
    """An endpoint in service that has shrunk to no machine; an alarm would wake our container."""
    hosting.create(plan(quick))
    assert in_service(hosting, "avatars-async").state == "in service"
    hosting.scale(plan(quick))
    quick.scaling.scale_in("avatars-async")
    assert hosting.state("avatars-async").instances == 0
    quick.endpoints.programs["avatar-endpoint"] = lambda definition: [
        sys.executable, "-m", "serving.contract", "--base", str(base.folder), "--family",
        base.family, "--base-id", base.id, "--device", "cpu", "--rows", "2", "--host",
        "127.0.0.1", "--port", "{port}",
    ]  # fmt: skip
    return AsyncEngine(settings(quick, base))


class Ending(Exception):
    """The worker's shift is over."""


def test_orders_wake_a_machine_and_come_back_as_pictures(in_line, cloud, base, people, hosting):
    """One container for the whole walk: it takes seconds to start."""
    folders = people["starter"]
    wishes = [asked(folders[0], seed=n) for n in range(3)] + [asked(folders[1], 1)]
    requests = [replace(wish, id=f"slot-{n}") for n, wish in enumerate(wishes)]

    def shift_ends(_request_id):
        if cloud.server.called("InvokeEndpointAsync"):
            raise Ending
        return False

    # a worker that is stopped leaves its order in line, and finds it again
    cloud.endpoints.may_wake = lambda name: False
    with pytest.raises(Ending):
        list(in_line.generate(requests[:2], cancelled=shift_ends))
    order, ticket = cloud.stored("orders/")
    assert order.startswith("orders/in/alice/person-0/v1/") and ticket == f"{order}.ticket"
    cloud.endpoints.may_wake = cloud.scaling._wakes

    engine = AsyncEngine(settings(cloud, base))
    said, steps = [], []
    drawn = {
        r.id: r
        for r in engine.generate(
            requests, on_wait=said.append, on_step=lambda *step: steps.append(step)
        )
    }
    assert set(drawn) == {"slot-0", "slot-1", "slot-2", "slot-3"} and len(steps) == 4
    assert said == [IN_LINE]
    assert hosting.state("avatars-async").instances == 1, "woken from nothing by what waited"
    assert len(cloud.server.called("InvokeEndpointAsync")) == 3, "nothing was ordered twice"
    here = LocalEngine.open(base, device="cpu", rows=2)
    try:
        for rendered in here.generate(requests):
            assert apart(drawn[rendered.id], rendered) <= 2
    finally:
        here.close()
    assert cloud.stored("orders/") == [], "order, ticket and result go once they are read"

    # what the engine refuses is said in its words; a busy service in ours; nothing is left
    with pytest.raises(RequestRefused, match="`steps`"):
        list(engine.generate([asked(folders[0], steps=100_000)]))
    cloud.server.faults.add("error", "InvokeEndpointAsync", code="ThrottlingException", status=400)
    with pytest.raises(EndpointFault, match="busy"):
        list(engine.generate([asked(folders[0])]))
    cloud.server.faults.clear()
    assert cloud.stored("orders/") == []


def test_cancelling_takes_back_what_no_machine_has_begun(cloud, in_line, people):
    cloud.endpoints.may_wake = lambda name: False
    begun = []

    def cancelled(_request_id):
        begun.append(1)
        return len(begun) > 3

    assert list(in_line.generate([asked(people["starter"][0])], cancelled=cancelled)) == []
    assert cloud.stored("orders/") == []


def test_an_order_that_nobody_draws_in_time_says_so(cloud, in_line, people, monkeypatch):
    cloud.endpoints.may_wake = lambda name: False
    monkeypatch.setattr("serving.asynchronous.SLACK_S", -100_000.0)
    with pytest.raises(EndpointFault, match="did not start in time"):
        list(in_line.generate([asked(people["starter"][0])]))
    assert cloud.stored("orders/") == []


def test_an_endpoint_that_goes_while_orders_wait_is_noticed(
    cloud, in_line, people, hosting, monkeypatch
):
    cloud.endpoints.may_wake = lambda name: False
    monkeypatch.setattr("serving.asynchronous.LOOK_AFTER_S", 0.0)
    with pytest.raises(EndpointFault, match="aws async status"):
        for _ in in_line.generate(
            [asked(people["starter"][0])], on_wait=lambda said: hosting.delete("avatars-async")
        ):
            raise AssertionError("nothing is drawn")
    assert cloud.stored("orders/") == []


def test_an_endpoint_that_was_deleted_says_what_to_run(cloud, base, people):
    engine = AsyncEngine(settings(cloud, base))
    with pytest.raises(EndpointFault, match="aws async status"):
        list(engine.generate([asked(people["starter"][0])]))
    assert cloud.stored("orders/") == []


def test_requests_of_others_and_models_of_other_bases_never_leave(cloud, base, people):
    engine = AsyncEngine(settings(cloud, base))
    folder = people["starter"][0]
    for request in (asked(folder, target="bob/p/v.tar.gz"), asked(None), asked(folder, owner="")):
        with pytest.raises(RequestRefused):
            list(engine.generate([request]))
    with pytest.raises(AdapterRefused, match="Train it again"):
        list(engine.generate([asked(people["sd15"][0])]))
    assert cloud.stored() == [] and not cloud.server.called("InvokeEndpointAsync")


def test_orders_and_tickets_are_encrypted_with_the_hosts_key(cloud, base, tmp_path):
    key = cloud.key()
    book = Orders(settings(cloud, base, kms_key=key))
    (tmp_path / "order.tar").write_bytes(b"x")
    ticket = Ticket(book.key("u/p/m.tar.gz", "n"), ())
    book.put(tmp_path / "order.tar", ticket.key)
    book.note(ticket)
    assert len(cloud.stored("orders/in/u/p/m/")) == 2
    assert cloud.keys_of("orders/") == {key}


def test_erasing_takes_orders_and_results_of_the_person_only(cloud, base):
    engine = AsyncEngine(settings(cloud, base))
    s3 = boto3.client("s3")
    keys = [
        f"orders/{part}/{place}"
        for part in ("in", "out", "failed")
        for place in ("u/p/m/x", "u/p/m2/x", "u/q/m/x", "u2/p/m/x")
    ]
    for key in keys:
        s3.put_object(Bucket=cloud.bucket, Key=key, Body=b"x")
    assert engine.book.withdraw("u/p/m.tar.gz") == 3
    assert engine.book.withdraw("u/p") == 3
    assert engine.book.withdraw("u") == 3
    assert {key.split("/")[2] for key in cloud.stored("orders/")} == {"u2"}
    with pytest.raises(EndpointFault):
        engine.book.withdraw("")


def test_many_or_large_pictures_go_one_way_and_the_rest_the_other(people):
    class Named:
        def __init__(self, name):
            self.name = name

        def generate(self, requests, **hooks):
            yield self.name

    engine = BySize(Named("now"), Named("later"), pictures=3)
    folder = people["starter"][0]
    one = asked(folder)
    assert next(iter(engine.generate([one]))) == "now"
    assert next(iter(engine.generate([one] * 3))) == "later"
    assert next(iter(engine.generate([asked(folder, width=2048, height=2048)]))) == "later"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"order.json": b"{}"},
        {"order.json": b"{}", "model.tar.gz": b""},
        {"model.tar.gz": b"", "order.json": b"{}"},
        {"order.json": b"{", "model.tar.gz": b"", "more": b""},
        {"../order.json": b"{}", "model.tar.gz": b""},
    ],
)
def test_what_is_no_order_is_refused(tmp_path, members):
    packed = tmp_path / "order.tar"
    with tarfile.open(packed, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(RequestRefused):
        orders.unpack(packed, into)
    packed.write_bytes(b"no tar at all")
    with pytest.raises(RequestRefused, match="damaged"):
        orders.unpack(packed, into)


def test_an_order_that_claims_more_than_it_holds_writes_nothing(tmp_path, people):
    """A sparse member may claim gigabytes of zeros in a few bytes."""
    order = orders.order_of([asked(people["starter"][0])], 60).model_dump_json().encode()
    packed = tmp_path / "order.tar"
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as tar:
        plain = tarfile.TarInfo("order.json")
        plain.size = len(order)
        tar.addfile(plain, io.BytesIO(order))
        body = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
        sparse = tarfile.TarInfo("GNUSparseFile.0/model.tar.gz")
        sparse.size = len(body)
        sparse.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
            "GNU.sparse.name": "model.tar.gz", "GNU.sparse.realsize": str(1 << 28),
        }  # fmt: skip
        tar.addfile(sparse, io.BytesIO(body))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(RequestRefused, match="claims more bytes"):
        orders.unpack(packed, into)
    assert list(into.iterdir()) == []


def test_an_order_whose_model_is_another_owners_is_refused(people):
    order = orders.order_of([asked(people["starter"][0])], 60)
    other = order.model_copy(update={"target": "bob/person-0/v1.tar.gz"})
    with pytest.raises(RequestRefused, match="does not belong"):
        other.requests(people["starter"][0])


def test_an_answers_refusal_is_the_engines_own():
    for error in (AdapterRefused("a"), RequestRefused("b"), EngineError("c")):
        content = orders.refused(error).model_dump_json().encode()
        with pytest.raises(type(error), match=str(error)):
            orders.rendered(content)
    with pytest.raises(ValueError, match="pictures"):
        orders.rendered(b'{"pictures": [{"id": "a"}]}')


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orders": "s3://bucket/orders"}, "slash"),
        ({"name": "bad name"}, "letters, digits"),
        ({"most": 0}, "range"),
        ({"least": 2}, "range"),
        ({"image": "x/avatar-endpoint-triton:1"}, "Triton"),
    ],
)
def test_an_asynchronous_plan_that_cannot_be_is_refused_here(cloud, hosting, changes, words):
    with pytest.raises(HostingError, match=words):
        hosting.create(plan(cloud, **changes))
    assert cloud.endpoints.models == {}


def test_an_asynchronous_endpoint_is_changed_recycled_and_taken_away(quick, hosting):
    cloud = quick
    hosting.create(plan(cloud, kms_key="alias/avatars"))
    assert in_service(hosting, "avatars-async").state == "in service"
    sent = cloud.server.called("CreateEndpointConfig")[0].parameters["AsyncInferenceConfig"]
    assert sent["OutputConfig"]["S3OutputPath"] == f"s3://{cloud.bucket}/orders/out"
    model = cloud.server.called("CreateModel")[0].parameters["PrimaryContainer"]
    assert model["Mode"] == "SingleModel" and model["Environment"] == {"AVATAR_DEVICE": "cuda"}
    hosting.scale(plan(cloud))
    (target,) = cloud.scaling.targets.values()
    assert target["MinCapacity"] == 0
    assert {kind["PolicyType"] for kind in cloud.scaling.policies.values()} == {
        "TargetTrackingScaling", "StepScaling",
    }  # fmt: skip
    alarms = boto3.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert [alarm["MetricName"] for alarm in alarms] == ["HasBacklogWithoutCapacity"]
    hosting.create(plan(cloud, instance="ml.g6.xlarge"))
    assert in_service(hosting, "avatars-async").state == "in service"
    hosting.recycle("avatars-async")
    in_service(hosting, "avatars-async")
    last = cloud.server.called("CreateEndpointConfig")[-1].parameters
    assert "AsyncInferenceConfig" in last
    assert last["ProductionVariants"][0]["InstanceType"] == "ml.g6.xlarge"
    assert "endpoint avatars-async" in hosting.delete("avatars-async")
    assert boto3.client("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert (cloud.endpoints.configs, cloud.endpoints.models) == ({}, {})
