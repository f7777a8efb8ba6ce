"""`run`: the service in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import signal
import threading

import click

from router import config
from router.cli.settings import load_rules, settings_of
from router.observe import logs
from router.service import Service
from router.web.app import HttpServer


@click.command()
@click.pass_context
def run(ctx: click.Context) -> int:
    """Run the service: Store SCP, scheduler, dispatcher, HTTP. SIGTERM drains and ends it, SIGHUP reloads the rules."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    logs.configure(json=settings.json)
    gc.set_threshold(100_000, 20, 100)  # decoding C-FIND answers makes many small objects: a third faster so
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    reload = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    service = Service(rules)
    http = HttpServer(service, rules.router.http_host, rules.router.http_port)
    service.http_address = f"{rules.router.http_host}:{http.port}"
    try:
        http.start()
        coordinator = config.Coordinator(settings.config, service.observe)
        service.start(scheduled=True)
        coordinator.subscribe(service.adopt)
        while not stop.wait(0.5):
            if reload.is_set():
                reload.clear()
                if not coordinator.reload():
                    for diagnostic in coordinator.latest.errors:
                        logs.logger().error("configuration rejected", diagnostic=str(diagnostic))
        logs.logger().info("stopping: running moves may end", drain_seconds=rules.router.drain)
    finally:
        service.stop()
        http.stop()
    logs.logger().info("stopped")
    return 0
