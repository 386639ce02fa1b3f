"""Certificates and kubeconfigs of a control plane (openssl, ECDSA P-256), made once."""

import base64
import secrets
import shutil
from pathlib import Path

from .settings import API_SERVICE_IP, NODE, Plane
from .shell import run, say, write

# user of the API server: kubeconfig name -> certificate subject
USERS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "coredns": "/CN=system:coredns",
    "volumes": "/CN=fovea:volumes",
}
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def ensure(plane: Plane) -> None:
    if plane.pki.exists():
        return
    part = plane.state / ".pki.part"  # a kill in the middle leaves no half PKI
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    for name in ("ca", "etcd-ca", "front-proxy-ca"):
        run(
            "openssl",
            "req",
            "-x509",
            *_KEY,
            "-days",
            "3650",
            "-subj",
            f"/CN=fovea-{name}",
            "-keyout",
            part / f"{name}.key",
            "-out",
            part / f"{name}.crt",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        )
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    addresses = ["127.0.0.1", API_SERVICE_IP, plane.address]
    san = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in dict.fromkeys(addresses))])
    _certificate(part, "etcd-ca", "etcd-server", "/CN=etcd", "serverAuth,clientAuth", "IP:127.0.0.1,DNS:localhost")
    _certificate(part, "etcd-ca", "etcd-client", "/CN=kube-apiserver", "clientAuth")
    _certificate(part, "ca", "apiserver", "/CN=kube-apiserver", "serverAuth", san)
    _certificate(part, "ca", "kubelet-client", "/CN=kube-apiserver-kubelet-client", "clientAuth")
    _certificate(part, "ca", "kubelet-server", f"/CN={NODE}", "serverAuth", f"DNS:{NODE},IP:{plane.address}")
    _certificate(part, "front-proxy-ca", "front-proxy", "/CN=front-proxy-client", "clientAuth")
    for user, subject in USERS.items():
        _certificate(part, "ca", user, subject, "clientAuth")
        _kubeconfig(part, plane, user)
    run("openssl", "genrsa", "-out", part / "service-account.key", "2048")
    run("openssl", "rsa", "-in", part / "service-account.key", "-pubout", "-out", part / "service-account.pub")
    part.rename(plane.pki)
    say("made certificates")


def _certificate(folder: Path, authority: str, name: str, subject: str, usage: str, san: str = "") -> None:
    extensions = f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n"
    write(folder / "extensions", extensions + (f"subjectAltName={san}\n" if san else ""))
    request = run("openssl", "req", *_KEY, "-subj", subject, "-keyout", folder / f"{name}.key")
    run(
        "openssl",
        "x509",
        "-req",
        "-CA",
        folder / f"{authority}.crt",
        "-CAkey",
        folder / f"{authority}.key",
        "-set_serial",
        f"0x{secrets.token_hex(12)}",
        "-days",
        "3650",
        "-extfile",
        folder / "extensions",
        "-out",
        folder / f"{name}.crt",
        stdin=request,
    )
    (folder / "extensions").unlink()


def _kubeconfig(folder: Path, plane: Plane, user: str) -> None:
    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    write(
        folder / f"{user}.kubeconfig",
        f"""\
apiVersion: v1
kind: Config
current-context: fovea
contexts: [{{name: fovea, context: {{cluster: fovea, user: {user}}}}}]
clusters: [{{name: fovea, cluster: {{server: "{plane.server}", certificate-authority-data: {data("ca.crt")}}}}}]
users:
- name: {user}
  user: {{client-certificate-data: {data(f"{user}.crt")}, client-key-data: {data(f"{user}.key")}}}
""",
        mode=0o600,
    )
