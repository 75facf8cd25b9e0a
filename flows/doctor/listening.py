"""Whether the servers of `lavise up` can be reached from this machine alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

from lavise.flows.doctor.check import Check, ok
from lavise.flows.orchestration.local_services import find_serving_process
from lavise.storage.state.environment import find_state_root

_NAME = "servers"


def check_listening(configured_root: Path | None) -> Iterator[Check]:
    """Addresses at which `lavise up` of this state folder, and whatever it has started, listens."""
    import psutil

    process = find_serving_process(find_state_root(configured_root))
    if process is None:
        yield ok(_NAME, "`lavise up` does not run for this state folder; its servers listen on loopback only")
        return
    places: set[tuple[str, int]] = set()
    try:
        own = psutil.Process(process)
        for one in (own, *own.children(recursive=True)):
            places |= {
                (str(c.laddr[0]), int(c.laddr[1]))
                for c in one.net_connections("inet")
                if c.status == psutil.CONN_LISTEN
            }
    except psutil.Error as err:
        advice = "ask as the user who started `lavise up`, or look with `ss -ltnp`"
        yield Check(_NAME, "warning", f"where process {process} listens cannot be told ({err})", advice)
        return
    shown = {address: f"{address[0]}:{address[1]}" for address in sorted(places)}
    beyond = [shown[address] for address in shown if not ipaddress.ip_address(address[0]).is_loopback]
    if beyond:
        advice = "whoever reaches these can start audits, which run code of their settings; stop what listens there"
        yield Check(_NAME, "warning", f"open beyond this machine: {', '.join(beyond)}", advice)
    else:
        yield ok(_NAME, f"`lavise up` (process {process}) listens on loopback only: {', '.join(shown.values())}")
