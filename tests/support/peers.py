"""All real peers in one place."""

from tests.support.dcmtk import (
    Address,
    Dcmqrscp,
    Found,
    Moved,
    MoveResponse,
    Storescp,
    echoscu,
    findscu,
    movescu,
    store_as_is,
    storescu,
)
from tests.support.orthanc import Orthanc, OrthancError
from tests.support.prometheus import Prometheus, PrometheusError, check_metrics

__all__ = [
    "Address",
    "Dcmqrscp",
    "Found",
    "MoveResponse",
    "Moved",
    "Orthanc",
    "OrthancError",
    "Prometheus",
    "PrometheusError",
    "Storescp",
    "check_metrics",
    "echoscu",
    "findscu",
    "movescu",
    "store_as_is",
    "storescu",
]
