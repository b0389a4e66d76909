"""An HTTP server that speaks AWS's protocols for the operations this product uses.

It checks every request against botocore's own service models, refuses what AWS refuses, follows a
plan of faults and records what it was asked. It belongs to the tests: no product file imports it.
"""

from tests.aws.server.faults import Fault, FaultPlan
from tests.aws.server.shapes import Refused
from tests.aws.server.wire import AwsServer, Call

__all__ = ["AwsServer", "Call", "Fault", "FaultPlan", "Refused"]
