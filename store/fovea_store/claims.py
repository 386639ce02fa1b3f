"""A claim of a cluster from outside of it: a short-lived pod mounts it, and kubectl carries files in and out as tar."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from fovea_api.errors import InvalidInput, Retryable
from pydantic import JsonValue

from fovea_store.errors import StoreUnavailable
from fovea_store.filesystems import PVC_ROOT, split_uri
from fovea_store.path import Entry

IMAGE = "busybox:1.37"
"""Any image with sh, tar, find and stat."""
READY_SECONDS = 180
"""For the pod to start: a volume is attached and an image pulled."""
LIFE_SECONDS = 12 * 3600
"""After this the pod ends by itself, should nobody be left to delete it."""
MOUNT = "/claim"
USER = 1000
"""User and group of the pod, as of Fovea's own: files that one writes the others may read and delete."""


def is_outside(uri: str) -> bool:
    """Whether a URI names a claim that this process has not mounted."""
    return split_uri(uri)[0] == "pvc" and not os.environ.get(PVC_ROOT)


class ClaimFolder:
    """A folder on a claim, through a pod that lives as long as the `with` block.

    Args:
        uri: `pvc://claim/path`.
        namespace: Namespace of the claim; None: kubectl's own.
        image: Image of the pod.

    Raises:
        InvalidInput: no kubectl, no such claim, or the pod is refused.
        StoreUnavailable: the pod does not start, or the connection breaks.
    """

    def __init__(self, uri: str, namespace: str | None = None, image: str = IMAGE) -> None:
        claim, _, path = split_uri(uri)[1].partition("/")
        if not claim or ".." in path.split("/"):
            raise InvalidInput("this is no claim", uri, "write pvc://claim/path")
        self.uri, self._claim, self._image = uri, claim, image
        self._folder = f"{MOUNT}/{path}".rstrip("/")
        self._scope = [] if namespace is None else ["--namespace", namespace]
        self._pod = ""

    def __enter__(self) -> Self:
        self._run("get", f"persistentvolumeclaim/{self._claim}", "--output=name")
        self._pod = self._run("create", "--filename=-", "--output=name", text=json.dumps(self._manifest())).strip()
        try:
            self._run("wait", "--for=condition=Ready", self._pod, f"--timeout={READY_SECONDS}s")
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._delete()

    def files(self) -> list[Entry]:
        listing = 'cd "$0" 2>/dev/null || exit 0; find . -type f -exec stat -c "%s %Y %n" {} +'
        entries = []
        for line in self._run("exec", self._pod, "--", "sh", "-c", listing, self._folder).splitlines():
            size, seconds, path = line.split(" ", 2)
            entries.append(Entry(path.removeprefix("./"), int(size), int(seconds) * 10**9))
        return sorted(entries, key=lambda entry: entry.path)

    def send(self, folder: Path, paths: Sequence[str], sent: Callable[[int], None]) -> None:
        unpack = 'mkdir -p "$0" && tar -C "$0" -xf -'
        with (
            self._pipe("exec", "-i", self._pod, "--", "sh", "-c", unpack, self._folder) as (stdin, _),
            tarfile.open(fileobj=stdin, mode="w|", format=tarfile.PAX_FORMAT, dereference=True) as archive,
        ):
            for path in paths:
                archive.add(folder / path, path, filter=_anonymous)
                sent((folder / path).stat().st_size)

    def receive(self, folder: Path, paths: Sequence[str], received: Callable[[int], None]) -> None:
        pack = 'tar -C "$0" -cf - -T -'
        folder.mkdir(parents=True, exist_ok=True)
        with self._pipe("exec", "-i", self._pod, "--", "sh", "-c", pack, self._folder) as (stdin, stdout):
            names = threading.Thread(target=_write_names, args=(stdin, paths), daemon=True)
            names.start()  # beside the reading: tar begins to write before it has read all names
            with tarfile.open(fileobj=stdout, mode="r|") as archive:
                for member in archive:
                    archive.extract(member, folder, filter="data")
                    received(member.size)
            names.join()

    # --- Plumbing ---

    def _delete(self) -> None:
        if self._pod:
            self._run("delete", self._pod, "--wait=false", "--ignore-not-found")

    def _run(self, *words: str, text: str = "") -> str:
        try:
            return subprocess.run(
                ["kubectl", *self._scope, *words], input=text, capture_output=True, text=True, check=True
            ).stdout
        except FileNotFoundError as error:
            raise _no_kubectl(self.uri) from error
        except subprocess.CalledProcessError as error:
            raise self._explained(str(error.stderr)) from error

    @contextmanager
    def _pipe(self, *words: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """A command with its standard input and output. Raises StoreUnavailable where it fails."""
        pipe = subprocess.PIPE
        with subprocess.Popen(["kubectl", *self._scope, *words], stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                yield process.stdin, process.stdout
                if not process.stdin.closed:
                    process.stdin.close()
                code = process.wait()
            except (OSError, tarfile.TarError) as error:  # the other end is gone, and says why
                process.kill()
                raise self._explained(process.stderr.read().decode(errors="replace") or str(error)) from error
            except BaseException:
                process.kill()
                raise
            if code != 0:
                raise self._explained(process.stderr.read().decode(errors="replace"))

    def _explained(self, said: str) -> InvalidInput | Retryable | StoreUnavailable:
        last = ["kubectl failed", *said.strip().splitlines()][-1]
        if "(NotFound)" in said:
            return InvalidInput(last, self.uri, "kubectl get persistentvolumeclaims; --namespace says where")
        if "(Forbidden)" in said or "(Invalid)" in said or "(Unauthorized)" in said:
            return InvalidInput(last, self.uri)
        if "timed out waiting" in said:
            why = f"the pod that mounts the claim did not start in {READY_SECONDS} s"
            return StoreUnavailable(
                why, self.uri, "kubectl describe says why; --image takes another image than busybox"
            )
        return StoreUnavailable(last, self.uri, "do it again: what has arrived is not copied anew")

    def _manifest(self) -> JsonValue:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": "fovea-transfer-",
                "labels": {"app.kubernetes.io/name": "fovea-transfer", "app.kubernetes.io/part-of": "fovea"},
            },
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": LIFE_SECONDS,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "transfer",
                        "image": self._image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", str(LIFE_SECONDS)],
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "64Mi"},
                            "limits": {"cpu": "1", "memory": "256Mi"},
                        },
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                        "volumeMounts": [{"name": "claim", "mountPath": MOUNT}],
                    }
                ],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": self._claim}}],
            },
        }


def _write_names(stdin: IO[bytes], paths: Sequence[str]) -> None:
    with suppress(OSError), stdin:  # tar that is gone says why on its standard error
        stdin.write("".join(f"./{path}\n" for path in paths).encode())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner's name on this machine; readable to all, as the cluster's pods have other users."""
    member.uid = member.gid = USER
    member.uname = member.gname = ""
    member.mode |= 0o644
    return member


def _no_kubectl(uri: str) -> InvalidInput:
    return InvalidInput(
        "kubectl is not installed, and outside of a cluster a claim is reached through it", uri, "install it"
    )
