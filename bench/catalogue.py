"""All benchmarks by name. A new one is a function that takes a Bench and yields rows, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench import decode, ledger, memory, move, store, store_scu, sweep, sweep_round, watching
from bench.harness import Bench
from bench.result import Row


class Benchmark(NamedTuple):
    """What `--only` calls it, what it does, what it takes."""

    name: str
    description: str
    run: Callable[[Bench], Iterator[Row]]


BENCHMARKS = (
    Benchmark("decode", "C-FIND matches: the decoders, and whole queries", decode.run),
    Benchmark("store", "Store SCP: storescu to the router, its peers and a sink", store.run),
    Benchmark("store-scu", "C-STORE SCU: the router, storescu and dcmsend to storescp and Orthanc", store_scu.run),
    Benchmark("move-objects", "C-MOVE of CT studies from Orthanc to the router and to storescp", move.run_objects),
    Benchmark("move-studies", "C-MOVE of many small studies: apply beside a loop of movescu", move.run_studies),
    Benchmark("sweep", "a sweep of known studies beside its C-FIND", sweep.run),
    Benchmark("round", "a round of sweeps of twenty sources beside their C-FINDs: time and memory", sweep_round.run),
    Benchmark("ledger", "claim and finish in a small and in a big ledger", ledger.run),
    Benchmark("watching", "a scrape and a board of a big site, with a big ledger and a small one", watching.run),
    Benchmark("memory", "memory while receiving one big object", memory.run),
)
