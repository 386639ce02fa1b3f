"""Published weights that cannot be had: whether another try may help."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fovea_trainer.models.weights import HubUnavailable, WeightsUnavailable, create
from huggingface_hub import constants

NAME = "mobilenetv3_small_100"


@contextmanager
def hub(status: int, code: str) -> Iterator[str]:
    """A hub on this machine that answers everything alike."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's own tries


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, "RepoNotFound", WeightsUnavailable),
        (404, "EntryNotFound", WeightsUnavailable),
        (403, "", WeightsUnavailable),
        (429, "", HubUnavailable),
        (503, "", HubUnavailable),
    ],
)
def test_what_the_hub_refuses_is_final_and_what_it_fails_at_is_not(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, error: type[Exception]
) -> None:
    with hub(status, code) as address:
        use(monkeypatch, address)
        with pytest.raises(error, match=rf"spec.model.pretrained: the ImageNet weights of {NAME} .*pretrained\.uri"):
            create(NAME, True)


def test_a_hub_that_does_not_answer_may_answer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(200, "") as address:
        pass
    use(monkeypatch, address)
    with pytest.raises(HubUnavailable):
        create(NAME, True)


def test_a_hub_that_is_forbidden_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable):
        create(NAME, True)


def test_weights_that_nobody_publishes_are_final() -> None:
    with pytest.raises(WeightsUnavailable, match="resnet200 could not be downloaded"):
        create("resnet200", True)
