"""`python -m bench.orders`: orders for some minutes, 80 % of them repeats. Not one of the table: it takes its time."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.order_load import Department, run_load


def main() -> int:
    """Run and print; 0 where every order was acknowledged and brought one look for each patient and appointment."""
    parser = argparse.ArgumentParser(prog="python -m bench.orders", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--per-minute", type=float, default=1000.0)
    options = parser.parse_args()
    orders = int(options.minutes * options.per_minute)
    with tempfile.TemporaryDirectory(prefix="dicom-router-orders-") as directory:
        department = Department(Path(directory), orders // 5)
        try:
            with department.site.run() as router:
                load = run_load(department, router, orders, options.per_minute)
        finally:
            department.close()
    sizes = " ".join(f"{size / 2**20:.0f}" for size in load.memory)
    print(f"{load.sent} orders sent, {load.accepted} acknowledged AA")
    print(f"{load.appointments} appointments, {load.looks} looks for priors, {load.taken} priors chosen")
    print(
        f"99 of 100 acknowledged within {load.slowest_of_hundred * 1000:.0f} ms, all within {max(load.latencies):.2f} s"
    )
    print(f"resident MiB of the service, over time: {sizes}")
    wanted = orders // 5
    return 0 if (load.accepted, load.appointments, load.looks) == (orders, wanted, wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
