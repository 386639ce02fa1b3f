"""A gateway and a real API server: it follows its ConfigMap with the rights that it needs and no others, and asks who
is behind a token.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from fovea_serving.gateway.authentication import Forbidden, ServiceAccountTokens, Unauthenticated
from fovea_serving.gateway.kubernetes import ApiServer, ApiUnavailable, watch_config_map
from fovea_serving.upstreams import UpstreamUnavailable

from tests.controlplane.conftest import ControlPlane

RIGHTS = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: gateway}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: gateway}
rules:
- {apiGroups: [""], resources: [configmaps], resourceNames: [gateway], verbs: [list, watch]}
- {apiGroups: [authorization.k8s.io], resources: [localsubjectaccessreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gateway}
subjects: [{kind: ServiceAccount, name: gateway}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: client}
rules:
- {apiGroups: [fovea.dev], resources: [modeldeployments], resourceNames: [cells], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: client}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: client}
subjects: [{kind: ServiceAccount, name: client}]
"""


class Proxy:
    """A TCP connection to the API server that a test can cut and restore; TLS goes through untouched."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, upstream_writer}
        await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    cluster = yaml.safe_load(control_plane.kubeconfig.read_text())["clusters"][0]["cluster"]
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    proxy = Proxy(host, int(port))
    await proxy.start()
    yield proxy
    await proxy.cut()


@pytest.fixture
async def api(control_plane: ControlPlane, namespace: str, proxy: Proxy, tmp_path: Path) -> AsyncIterator[ApiServer]:
    """The API server as the gateway's ServiceAccount sees it."""
    control_plane.kubectl("-n", namespace, "apply", "-f", "-", input=RIGHTS)
    binding = f"gateway-{namespace}"
    control_plane.kubectl(
        "create", "clusterrolebinding", binding, "--clusterrole=system:auth-delegator",
        f"--serviceaccount={namespace}:gateway",
    )  # fmt: skip
    cluster = yaml.safe_load(control_plane.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = cluster.get("certificate-authority-data")
    content = base64.b64decode(authority) if authority else Path(cluster["certificate-authority"]).read_bytes()
    (tmp_path / "ca.crt").write_bytes(content)
    (tmp_path / "token").write_text(control_plane.kubectl("-n", namespace, "create", "token", "gateway"))
    api = ApiServer(f"https://127.0.0.1:{proxy.port}", tmp_path)
    yield api
    await api.close()
    control_plane.kubectl("delete", "clusterrolebinding", binding)


def write(control_plane: ControlPlane, namespace: str, text: str) -> None:
    patch = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gateway"}, "data": {"gateway.json": text}}
    control_plane.apply(patch, namespace=namespace)


async def test_changes_arrive_and_nothing_is_lost_while_the_api_server_is_away(
    control_plane: ControlPlane, namespace: str, api: ApiServer, proxy: Proxy
) -> None:
    texts = watch_config_map(api, namespace, "gateway", "gateway.json")

    async def next_text() -> str:
        async with asyncio.timeout(120):
            return await anext(texts)

    waiting = asyncio.create_task(next_text())
    await asyncio.sleep(0.5)
    write(control_plane, namespace, "1")
    assert await waiting == "1", "it did not exist at first"
    write(control_plane, namespace, "2")
    assert await next_text() == "2"
    control_plane.kubectl("-n", namespace, "label", "configmap", "gateway", "irrelevant=yes")
    waiting = asyncio.create_task(next_text())
    await asyncio.sleep(0.3)
    assert not waiting.done(), "the text did not change"
    await proxy.cut()
    write(control_plane, namespace, "3")
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await proxy.start()
    assert await waiting == "3"
    control_plane.kubectl("-n", namespace, "delete", "configmap", "gateway")
    write(control_plane, namespace, "4")
    assert await next_text() == "4"


async def test_it_reads_no_other_config_map(control_plane: ControlPlane, namespace: str, api: ApiServer) -> None:
    with pytest.raises(Exception, match="403"):
        await api.get(f"/api/v1/namespaces/{namespace}/configmaps", {"fieldSelector": "metadata.name=other"})


async def test_whoever_may_get_the_deployment_may_ask_it(
    control_plane: ControlPlane, namespace: str, api: ApiServer, proxy: Proxy
) -> None:
    def token(account: str) -> dict[str, str]:
        return {"authorization": f"Bearer {control_plane.kubectl('-n', namespace, 'create', 'token', account).strip()}"}

    now = 0.0
    tokens = ServiceAccountTokens(api, namespace, "cells", lambda: now)
    client, stranger = token("client"), token("stranger")
    await tokens.check(client)
    with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:stranger may not get"):
        await tokens.check(stranger)
    with pytest.raises(Unauthenticated, match="not valid"):
        await tokens.check({"authorization": "Bearer forged"})
    with pytest.raises(Unauthenticated, match="no token"):
        await tokens.check({})
    with pytest.raises(Forbidden):
        await ServiceAccountTokens(api, namespace, "others").check(client)

    control_plane.kubectl("-n", namespace, "delete", "rolebinding", "client")
    await tokens.check(client)
    now = 61
    with pytest.raises(Forbidden):
        await tokens.check(client)


async def test_who_was_allowed_stays_so_while_the_api_server_is_away_but_not_for_ever(
    control_plane: ControlPlane, namespace: str, api: ApiServer, proxy: Proxy
) -> None:
    now = 0.0
    tokens = ServiceAccountTokens(api, namespace, "cells", lambda: now)
    client = {"authorization": f"Bearer {control_plane.kubectl('-n', namespace, 'create', 'token', 'client').strip()}"}
    await tokens.check(client)
    await proxy.cut()
    now = 290
    await tokens.check(client)
    with pytest.raises(UpstreamUnavailable, match="cannot be reviewed"):
        await tokens.check({"authorization": "Bearer another"})
    now = 301
    with pytest.raises(UpstreamUnavailable, match="cannot be reviewed"):
        await tokens.check(client)
    with pytest.raises(ApiUnavailable):
        await api.get("/version", {})
    await proxy.start()
    await tokens.check(client)
