"""The bridge, routes, firewall table and kernel settings of the cluster; and taking exactly these away again."""

import ipaddress
import json
from pathlib import Path

from .settings import BRIDGE, CLUSTER, HOST_IP, POD_SUPERNET, SERVICE_CIDR, render
from .shell import Failure, run, succeeds, write

_ALIAS = f"fovea-devcluster:{CLUSTER.state}"  # marks the bridge as ours
_MAC = "0a:58:0a:f4:00:01"  # fixed: a bridge's own address changes as pods come and go
_METRIC = "4000000"
_SAVED = CLUSTER.state / "sysctl.json"
_SYSCTL = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}
# kubelet and the service proxy set these themselves
_TOUCHED = ("vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.conf.all.route_localnet")
_TABLES = ("ip kube-proxy", "ip6 kube-proxy", "inet fovea-devcluster")


def up() -> None:
    bridge = _bridge()
    if not _SAVED.exists():
        write(_SAVED, json.dumps({key: _sysctl(key) for key in (*_SYSCTL, *_TOUCHED)}))
    for cidr in (SERVICE_CIDR, POD_SUPERNET):  # closed before anything is open
        run("ip", "route", "replace", "unreachable", cidr, "metric", _METRIC)
    run("nft", "-f", "-", stdin=render("network.nft"))
    if bridge is None:
        run("ip", "link", "add", BRIDGE, "address", _MAC, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "alias", _ALIAS)
    run("ip", "address", "replace", f"{HOST_IP}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    # A connect() of the host to a service looks up a route before the address is translated: it needs a real one.
    run("ip", "route", "replace", SERVICE_CIDR, "dev", BRIDGE, "src", HOST_IP, "metric", "10")
    for key, value in _SYSCTL.items():
        if _sysctl(key) is not None:
            run("sysctl", "-qw", f"{key}={value}")


def down() -> None:
    if (bridge := _bridge()) and _ours(bridge):
        run("ip", "link", "delete", BRIDGE)
    if not _SAVED.exists():
        return  # nothing was set up
    for table in _TABLES:
        succeeds("nft", "delete", "table", *table.split())
    for cidr in (SERVICE_CIDR, POD_SUPERNET):
        succeeds("ip", "route", "delete", "unreachable", cidr, "metric", _METRIC)
    for key, value in json.loads(_SAVED.read_text()).items():
        if value is not None:
            succeeds("sysctl", "-qw", f"{key}={value}")
    _SAVED.unlink()


def _bridge() -> dict[str, object] | None:
    found = json.loads(run("ip", "-json", "link", "show") or "[]")
    return next((link for link in found if link.get("ifname") == BRIDGE), None)


def _ours(bridge: dict[str, object]) -> bool:
    # made but not yet marked when a kill came: the fixed address and our own record tell
    return bridge.get("ifalias") == _ALIAS or (
        "ifalias" not in bridge and bridge.get("address") == _MAC and _SAVED.exists()
    )


def refuse_strangers() -> None:
    """Failure when another program has our bridge, our address ranges or a service proxy on this machine."""
    if (bridge := _bridge()) and not _ours(bridge):
        raise Failure(f"the interface {BRIDGE} belongs to another program; remove or rename it first")
    ours = [ipaddress.ip_network(SERVICE_CIDR), ipaddress.ip_network(POD_SUPERNET)]
    for route in json.loads(run("ip", "-json", "-4", "route", "show", "table", "main") or "[]"):
        if route["dst"] == "default" or route.get("dev") == BRIDGE or str(route.get("metric")) == _METRIC:
            continue
        if any(ipaddress.ip_network(route["dst"]).overlaps(network) for network in ours):
            raise Failure(
                f"the route to {route['dst']} over {route.get('dev', route.get('type'))} overlaps with the "
                f"cluster's ranges {POD_SUPERNET} and {SERVICE_CIDR}; another cluster or network uses them"
            )
    if not _SAVED.exists():
        tables = run("nft", "list", "tables")
        if "table ip kube-proxy" in tables or "table ip6 kube-proxy" in tables:
            raise Failure("another kube-proxy has its nftables tables on this machine; stop that cluster first")


def _sysctl(key: str) -> str | None:
    path = Path("/proc/sys") / key.replace(".", "/")
    return path.read_text().strip() if path.exists() else None
