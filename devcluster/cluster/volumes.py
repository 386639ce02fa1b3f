"""Dynamic volumes: a folder per claim of StorageClass `hostpath`, writable by every user.

The controller manager's own hostPath provisioner makes folders of mode 0750 owned by root under a fixed path in /tmp:
a pod that does not run as root cannot write there, and a reboot may empty it. Run as `python3 -m cluster.volumes URL
PKI FOLDER`.
"""

import json
import shutil
import ssl
import sys
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

CLASS = "hostpath"
PROVISIONER = "fovea.dev/hostpath"
_OWNER = "pv.kubernetes.io/provisioned-by"  # the controller manager leaves such volumes to us


class Volumes:
    def __init__(self, server: str, pki: Path, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self.tls.load_cert_chain(pki / "volumes.crt", pki / "volumes.key")

    def call(self, method: str, path: str, body: object = None) -> dict:  # type: ignore[type-arg]
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=self.tls, timeout=10) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def reconcile(self) -> None:
        volumes = {
            item["metadata"]["name"]: item
            for item in self.call("GET", "/api/v1/persistentvolumes?resourceVersion=0")["items"]
        }
        for claim in self.call("GET", "/api/v1/persistentvolumeclaims?resourceVersion=0")["items"]:
            meta, spec = claim["metadata"], claim["spec"]
            name = f"pvc-{meta['uid']}"
            if spec.get("storageClassName") == CLASS and not spec.get("volumeName") and name not in volumes:
                self.provide(name, meta, spec)
        for name, volume in volumes.items():
            owner = volume["metadata"].get("annotations", {}).get(_OWNER)
            if owner == PROVISIONER and volume["status"].get("phase") == "Released":
                shutil.rmtree(self.folder / name, ignore_errors=True)
                self.call("DELETE", f"/api/v1/persistentvolumes/{name}")

    def provide(self, name: str, meta: dict, spec: dict) -> None:  # type: ignore[type-arg]
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        self.call(
            "POST",
            "/api/v1/persistentvolumes",
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name, "annotations": {_OWNER: PROVISIONER}},
                "spec": {
                    "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                    "accessModes": spec["accessModes"],
                    "storageClassName": CLASS,
                    "persistentVolumeReclaimPolicy": "Delete",
                    "hostPath": {"path": str(path), "type": "Directory"},
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": meta["namespace"],
                        "name": meta["name"],
                        "uid": meta["uid"],
                    },
                },
            },
        )
        print(f"{meta['namespace']}/{meta['name']}: {path}", flush=True)


def main() -> None:
    server, pki, folder = sys.argv[1:]
    volumes = Volumes(server, Path(pki), Path(folder))
    while True:
        try:
            volumes.reconcile()
        except urllib.error.HTTPError as error:
            if error.code not in (404, 409):  # someone was faster: the next round sees it
                traceback.print_exc()
        except OSError as error:
            print(error, flush=True)  # the API server restarts
        time.sleep(0.5)


if __name__ == "__main__":
    main()
