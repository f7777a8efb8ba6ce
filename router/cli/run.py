"""`run`: the service in the foreground, until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import signal
import threading
import time

import click

from router import config
from router.cli.settings import load_configuration, settings_of
from router.errors import NameTaken, RouterError
from router.observe import logs
from router.opening import running_services
from router.service import Service
from router.web.server import HttpServer

_LOOK_SECONDS = 0.2


@click.command(short_help="Run the service until SIGTERM.")
@click.pass_context
def run(ctx: click.Context) -> int:
    """Run the service: Store SCP, scheduler, dispatcher, HTTP. SIGTERM drains and ends it, SIGHUP reloads the rules.

    Changes of the configuration's files are taken by themselves, unless it says `router.watch: false`.
    """
    signals = _Signals()
    settings = settings_of(ctx)
    loaded, rules = load_configuration(settings)
    logs.configure(json=settings.json or rules.router.log.format == "json", level=rules.router.log.level)
    gc.set_threshold(100_000, 20, 100)  # decoding C-FIND answers makes many small objects: a third faster so
    signals.heed_the_end()
    service = Service(rules)
    coordinator = config.Coordinator(settings.config, service.observe, loaded)
    watcher = config.Watcher(settings.config, coordinator, logs.trouble, every=rules.router.watch_every)
    try:
        router = rules.router
        http = HttpServer(service, coordinator, router.http_host, router.http_port, router.http_tls)
    except RouterError as error:
        raise _with_cause(error, service) from None
    service.http_address = http.address
    try:
        http.start()
        coordinator.announce()
        try:
            service.start(scheduled=True)
        except RouterError as error:
            if signals.end:  # it was stopped while it started: that is no failure
                raise KeyboardInterrupt from None
            raise _with_cause(error, service) from None
        coordinator.subscribe(service.adopt)
        if rules.router.watch:
            watcher.start()
        asked = threading.Event()
        reloading = threading.Thread(target=_reload_when, args=(asked, coordinator), name="reload", daemon=True)
        reloading.start()
        signals.interrupts = False
        while not signals.end:
            if signals.reload:
                signals.reload = False
                asked.set()
            time.sleep(_LOOK_SECONDS)
        logs.logger().info("stopping: running moves may end", drain_seconds=rules.router.drain)
    except KeyboardInterrupt:
        logs.logger().info("stopped while it started")
    finally:
        try:
            signals.wait_no_longer()
            watcher.stop()
            service.stop()
        except KeyboardInterrupt:
            logs.logger().warning("stopping at once: running moves are cancelled")
            service.stop(drain=0.0)
        http.stop()
    logs.logger().info("stopped")
    return 0


class _Signals:
    """What signals asked for, looked at by the main thread again and again.

    The kernel may hand a signal to any thread, and the main thread, which alone runs handlers, is not woken by it: in a
    wait without end it would never hear of it. A handler takes no lock either: the thread it interrupts may hold it.
    """

    def __init__(self) -> None:
        self.reload = False
        self.end = False
        self.interrupts = True
        """Whether who asks a second time interrupts what is done; else it is remembered until `wait_no_longer`."""
        self._at_once = False
        signal.signal(signal.SIGHUP, self._on_reload)  # first of all: by default it kills

    def heed_the_end(self) -> None:
        """Have SIGTERM and SIGINT ask for the end; whoever asks twice waits no longer."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)

    def wait_no_longer(self) -> None:
        """Who asks a second time interrupts from now on, or has asked already. Raises KeyboardInterrupt."""
        self.interrupts = True
        if self._at_once:
            raise KeyboardInterrupt

    def _on_reload(self, *_: object) -> None:
        self.reload = True

    def _on_end(self, *_: object) -> None:
        again = self.end and not self._at_once
        self._at_once, self.end = self.end, True
        if again and self.interrupts:
            raise KeyboardInterrupt


def _reload_when(asked: threading.Event, coordinator: config.Coordinator) -> None:
    """Load the configuration whenever somebody asks for it; however long that takes, the service can be stopped."""
    while True:
        asked.wait()
        asked.clear()
        try:
            coordinator.reload()
        except Exception as error:  # noqa: BLE001  a defect in one attempt must not end the service, nor the next attempt
            logs.trouble("reload", error)


def _with_cause(error: RouterError, service: Service) -> RouterError:
    """The error, with the likely cause where another service works on the same ledger."""
    if isinstance(error, NameTaken):  # it says which
        return error
    others = [one for one in running_services(service.ledger) if one.owner != service.owner]
    if not others:
        return error
    at = f", with HTTP at {others[0].address}" if others[0].address else ""
    return RouterError(f"{error} A dicom-router runs on the same ledger already{at}; is this a second one by mistake?")
