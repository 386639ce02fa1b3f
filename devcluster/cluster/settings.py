"""Where things lie and which addresses are used. Every file the cluster writes is under CACHE."""

import os
from dataclasses import dataclass
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent
CACHE = Path(
    os.environ.get("FOVEA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fovea"
).absolute()
BIN = CACHE / "bin"
IMAGES = CACHE / "images"

NODE = "fovea"
BRIDGE = "fovea0"
HOST_IP = "10.244.0.1"  # the bridge's address: API server, kubelet, CoreDNS and S3 listen here, all else on loopback
POD_CIDR = "10.244.0.0/24"
POD_SUPERNET = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
S3_PORT = 7070
S3_BUCKET = "fovea"
S3_REGION = "us-east-1"


@dataclass(frozen=True)
class Plane:
    """One control plane: its folder, its address and its ports."""

    state: Path
    address: str
    api_port: int
    etcd_port: int  # peers use the next one
    manager_port: int

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    def kubeconfig(self, user: str = "admin") -> Path:
        return self.pki / f"{user}.kubeconfig"

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.api_port}"


CLUSTER = Plane(CACHE / "cluster", HOST_IP, 6443, 2379, 10257)
CONTROL_PLANE = Plane(CACHE / "controlplane", "127.0.0.1", 16443, 12379, 20257)
CRI_SOCKET = CLUSTER.state / "run" / "containerd.sock"


def render(name: str) -> str:
    """The text of config/<name> with $STATE, $HOST_IP and the other settings filled in."""
    return Template((HERE / "config" / name).read_text()).substitute(
        STATE=CLUSTER.state,
        PKI=CLUSTER.pki,
        CRI_SOCKET=CRI_SOCKET,
        NODE=NODE,
        BRIDGE=BRIDGE,
        HOST_IP=HOST_IP,
        POD_CIDR=POD_CIDR,
        POD_SUPERNET=POD_SUPERNET,
        SERVICE_CIDR=SERVICE_CIDR,
        DNS_IP=DNS_IP,
    )
