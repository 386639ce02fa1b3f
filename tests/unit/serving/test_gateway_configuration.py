"""Which version answers, and how a changed configuration takes effect without a failed request."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from fovea_api.bundle import BundleManifest
from fovea_api.errors import InvalidInput
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_api.modeldeployment import CapturePolicy, Inference
from fovea_serving.bundle import load_bundle
from fovea_serving.gateway import configuration
from fovea_serving.gateway.authentication import ApiKeys, Everybody
from fovea_serving.gateway.configuration import Follower, Surroundings, parse_config, parsed, watch_file
from fovea_serving.gateway.gateway import Call, Gateway
from fovea_serving.gateway.routing import Routing, Version
from fovea_serving.predictor import Predictor
from fovea_serving.signature import SIGNATURE, UntrustedBundle
from fovea_serving.upstreams import Answer, PredictOptions, Upstream, UpstreamUnavailable
from fovea_serving.upstreams.base import DEFAULTS
from fovea_serving.upstreams.local import LocalUpstream

from tests.unit.serving.conftest import PATIENT, UNHURRIED

LONGEST_SECONDS = 120.0
"""For what will happen; it only ends a hang."""


class Counted(LocalUpstream):
    """The model in this process in the place of a runtime's; counts what it is asked."""

    def __init__(self, predictor: Predictor, name: str) -> None:
        super().__init__(predictor)
        self.name = name
        self.asked = 0
        self.closed = False

    async def predict(self, images: Sequence[bytes], options: PredictOptions = DEFAULTS) -> list[Answer]:
        self.asked += 1
        return await super().predict(images, options)

    async def close(self) -> None:
        await super().close()
        self.closed = True


@pytest.fixture
def opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """The upstreams that a follower opens."""
    opened: list[Counted] = []
    predictor = Predictor.from_bundle(load_bundle(bundle), threads=1)

    def open_upstream(served: ServedVersion, manifest: BundleManifest, config: GatewayConfig) -> Upstream:
        opened.append(Counted(predictor, served.name))
        return opened[-1]

    monkeypatch.setattr(configuration, "open_upstream", open_upstream)
    return opened


@pytest.fixture
def image() -> bytes:
    return cv2.imencode(".png", np.full((20, 30, 3), 90, np.uint8))[1].tobytes()


def config_of(bundle: Path, *versions: tuple[str, str, float], **fields: object) -> GatewayConfig:
    served = [
        {"name": name, "role": role, "weight": weight, "runtime": "RayServe"}
        | {"bundle": f"file://{bundle}", "address": f"http://{name}"}
        for name, role, weight in versions
    ]
    content = {"namespace": "team", "deployment": "colours", "versions": served}
    content |= {"authentication": {"type": "None"}, "inference": PATIENT.to_dict()}
    return GatewayConfig.model_validate(content | fields)


def choice(manifest: BundleManifest, defaults: PredictOptions) -> PredictOptions:
    return defaults


def test_versions_answer_by_weight_and_an_id_always_goes_to_the_same() -> None:
    def version(name: str, role: str, weight: float) -> Version:
        return Version(name, role, weight, None)  # type: ignore[arg-type]

    routing = Routing([version("a", "Stable", 75), version("s", "Shadow", 0), version("b", "Candidate", 25)])
    chosen = [routing.choose(f"request-{number}").name for number in range(4000)]
    assert chosen == [routing.choose(f"request-{number}").name for number in range(4000)]
    assert Counter(chosen)["b"] == pytest.approx(1000, abs=120), "4 standard deviations"
    assert "s" not in chosen
    all_of_b = Routing([version("a", "Stable", 0), version("b", "Candidate", 100)])
    assert {all_of_b.choose(str(number)).name for number in range(50)} == {"b"}


async def test_a_shadow_gets_copies_and_no_answer_comes_from_it(
    bundle: Path, opened: list[Counted], image: bytes
) -> None:
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    await follower.apply(config_of(bundle, ("a", "Stable", 100), ("s", "Shadow", 0)))
    for upstream in opened:
        upstream.asked = 0  # the golden image
    answered = [await gateway.predict(Call(str(number), "somebody"), [image], choice) for number in range(5)]
    await gateway.close()
    assert {each.version.name for each in answered} == {"a"}
    assert {upstream.name: upstream.asked for upstream in opened} == {"a": 5, "s": 5}


def test_what_only_a_later_operator_knows_is_left_out_and_who_may_ask_is_not(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(bundle, ("a", "Stable", 100), captures={"uri": "s3://x/y"})
    content = config.to_dict()
    later = content | {"hologram": {"x": 1}, "captures": {"uri": "s3://x/y", "hologram": 1}}
    assert parse_config(json.dumps(later), "gateway.json") == config
    assert "captures.hologram, hologram" in caplog.text
    (version,) = content["versions"]
    for name, part in (("authentication", {"type": "None", "mfa": True}), ("versions", [{**version, "trust": "x"}])):
        with pytest.raises(InvalidInput, match=f"{name}.*(mfa|trust)"):
            parse_config(json.dumps(content | {name: part}), "gateway.json")
    with pytest.raises(InvalidInput, match="deployment"):
        parse_config(json.dumps(later | {"deployment": 3}), "gateway.json")
    with pytest.raises(InvalidInput, match="captures"):
        parse_config(json.dumps(later | {"captures": {"uri": "https://x/y", "hologram": 1}}), "gateway.json")


async def test_another_timeout_is_that_of_versions_which_answer_already(bundle: Path, opened: list[Counted]) -> None:
    """A connection gives requests up by the timeout that it was opened with."""
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    config = config_of(bundle, ("a", "Stable", 100))
    await follower.apply(config)
    await follower.apply(config.model_copy(update={"mirror_percent": 5.0}))
    assert len(opened) == 1
    await follower.apply(config.model_copy(update={"inference": Inference(timeout_seconds=60)}))
    assert len(opened) == 2
    await gateway.close()


async def test_captures_that_cannot_be_kept_stop_no_version(bundle: Path, opened: list[Counted], image: bytes) -> None:
    """A claim that is not mounted, and then a store."""
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    config = config_of(bundle, ("a", "Stable", 100))
    await follower.apply(config.model_copy(update={"captures": CapturePolicy(uri="pvc://absent/captures")}))
    assert (await gateway.predict(Call("1", "somebody"), [image], choice)).version.name == "a"
    assert gateway.monitor.capturer is None
    await follower.apply(config.model_copy(update={"captures": CapturePolicy(uri=f"file://{bundle.parent}/kept")}))
    assert gateway.monitor.capturer is not None
    await gateway.close()


async def test_keeping_ends_though_the_next_configuration_is_there_already(
    bundle: Path, opened: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double stands for a load test whose end is waited for when that one comes."""

    async def cut_off(*_: object) -> None:
        raise asyncio.CancelledError

    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    config = config_of(bundle, ("a", "Stable", 100))
    await follower.apply(config.model_copy(update={"captures": CapturePolicy(uri=f"file://{bundle.parent}/kept")}))
    capturer = gateway.monitor.capturer
    assert capturer is not None
    monkeypatch.setattr(follower._load_tester, "follow", cut_off)
    with pytest.raises(asyncio.CancelledError):
        await follower.apply(config)
    assert capturer._closing.is_set()
    await gateway.close()


async def test_a_switch_under_load_fails_no_request_and_closes_what_is_replaced(
    bundle: Path, opened: list[Counted], image: bytes
) -> None:
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    await follower.apply(config_of(bundle, ("a", "Stable", 100)))
    names: Counter[str] = Counter()
    done = asyncio.Event()

    async def ask(client: int) -> None:
        number = 0
        while not done.is_set():
            answered = await gateway.predict(Call(f"{client}-{number}", "somebody"), [image], choice)
            names[answered.version.name] += 1
            number += 1

    async def answers(name: str) -> None:
        before = names[name]
        while names[name] == before:
            await asyncio.sleep(0.01)

    clients = [asyncio.create_task(ask(client)) for client in range(8)]
    for former, name in zip("abcde", "bcdef", strict=True):
        await answers(former)
        await follower.apply(config_of(bundle, (former, "Stable", 50), (name, "Candidate", 50)))
        await answers(name)
        await follower.apply(config_of(bundle, (name, "Stable", 100)))
    await answers("f")
    done.set()
    await asyncio.gather(*clients)
    await gateway.close()
    assert set(names) == set("abcdef"), "each has answered"
    assert [upstream.name for upstream in opened] == list("abcdef"), "a change of weight opens nothing anew"
    assert all(upstream.closed for upstream in opened)


async def test_a_version_closed_between_choice_and_request_leads_to_its_successor(
    bundle: Path, opened: list[Counted], image: bytes
) -> None:
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    await follower.apply(config_of(bundle, ("a", "Stable", 100)))

    async def refuse(images: object, options: object) -> list[Answer]:
        await follower.apply(config_of(bundle, ("b", "Stable", 100)))
        raise UpstreamUnavailable("closed")

    opened[0].predict = refuse  # type: ignore[method-assign,assignment]
    assert (await gateway.predict(Call("1", "somebody"), [image], choice)).version.name == "b"
    await gateway.close()


async def test_what_cannot_be_applied_changes_nothing_and_is_tried_again(
    bundle: Path, opened: list[Counted], image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "RETRY_SECONDS", 0.02)
    gateway = Gateway(settings=UNHURRIED)
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps(config_of(bundle, ("a", "Stable", 100)).to_dict()))
    follower = Follower(gateway, Surroundings())
    following = asyncio.create_task(follower.follow(parsed(watch_file(file, 0.02), "gateway.json")))

    async def answers_from(name: str) -> None:
        async with asyncio.timeout(LONGEST_SECONDS):
            while not gateway.routing.versions or gateway.routing.choose("1").name != name:
                await asyncio.sleep(0.01)

    await answers_from("a")
    later = tmp_path / "later" / bundle.name
    file.write_text(json.dumps(config_of(later, ("b", "Stable", 100)).to_dict()))
    await asyncio.sleep(0.2)
    assert (await gateway.predict(Call("1", "somebody"), [image], choice)).version.name == "a", (
        "the store does not have it yet"
    )
    file.write_text('{"namespace": "team", "deploymnt": "typo"}')
    await asyncio.sleep(0.1)
    file.unlink()
    await asyncio.sleep(0.1)
    assert (await gateway.predict(Call("1", "somebody"), [image], choice)).version.name == "a"
    later.parent.mkdir()
    later.symlink_to(bundle)
    file.write_text(json.dumps(config_of(later, ("b", "Stable", 100)).to_dict()))
    await answers_from("b")
    following.cancel()
    await gateway.close()


@pytest.mark.parametrize(("role", "weight"), [("Candidate", 25), ("Shadow", 0)])
async def test_a_gateway_that_starts_serves_stable_though_a_candidate_has_no_bundle(
    bundle: Path, opened: list[Counted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, weight: float
) -> None:
    monkeypatch.setattr(configuration, "RETRY_SECONDS", 0.02)
    versions = ("a", "Stable", 100 - weight), ("b", role, weight)
    config = config_of(bundle, *versions, revision="r-1")
    later = tmp_path / "later" / bundle.name
    without = config.versions[1].model_copy(update={"bundle": f"file://{later}"})
    config = config.model_copy(update={"versions": (config.versions[0], without)})
    gateway = Gateway(settings=UNHURRIED)

    async def configs() -> AsyncIterator[GatewayConfig]:
        yield config
        await asyncio.Event().wait()

    async def names(expected: list[str]) -> None:
        async with asyncio.timeout(LONGEST_SECONDS):
            while [version.name for version in gateway.routing.versions] != expected:
                await asyncio.sleep(0.01)

    following = asyncio.create_task(Follower(gateway, Surroundings()).follow(configs()))
    await names(["a"])
    assert gateway.routing.revision == "", "nobody takes it for the configuration"
    later.parent.mkdir()
    later.symlink_to(bundle)
    await names(["a", "b"])
    assert gateway.routing.revision == "r-1"
    assert [each.name for each in opened] == ["a", "a", "b"], "the stable version goes on as it is"
    following.cancel()
    await gateway.close()


async def test_a_bundle_that_is_not_what_its_digest_promises_never_serves(
    bundle: Path, opened: list[Counted], tmp_path: Path
) -> None:
    forged = tmp_path / "elsewhere" / bundle.name
    forged.mkdir(parents=True)
    text = (bundle / "bundle.yaml").read_text()
    (forged / "bundle.yaml").write_text(text.replace("- red\n- green", "- green\n- red"))
    gateway = Gateway(settings=UNHURRIED)
    with pytest.raises(Exception, match="digest"):
        await Follower(gateway, Surroundings()).apply(config_of(forged, ("a", "Stable", 100)))
    assert not gateway.routing.versions
    assert not opened


async def test_a_gateway_that_must_see_a_signature_uses_no_manifest_that_was_changed_since(
    signed: Path, keys: tuple[Path, Path], opened: list[Counted], image: bytes
) -> None:
    def config(name: str, bundle: Path) -> GatewayConfig:
        given = config_of(bundle, (name, "Stable", 100))
        (version,) = given.versions
        return given.model_copy(update={"versions": (version.model_copy(update={"public_key": str(keys[1])}),)})

    folder = signed.rename(signed.with_name("latest"))  # nothing but the signature binds what lies in it
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings())
    await follower.apply(config("a", folder))
    manifest, signature = folder / "bundle.yaml", folder / SIGNATURE
    text = manifest.read_text()
    manifest.write_text(text.replace("- red\n- green", "- green\n- red"))
    with pytest.raises(UntrustedBundle, match=r"bundle\.yaml is not what was signed"):
        await follower.apply(config("b", folder))
    manifest.write_text(text)
    signature.unlink()
    with pytest.raises(UntrustedBundle, match="is not signed"):
        await follower.apply(config("b", folder))
    answered = await gateway.predict(Call("1", "somebody"), [image], choice)
    assert answered.version.name == "a", "the version before goes on"
    assert [upstream.name for upstream in opened] == ["a"]
    await gateway.close()


async def test_without_versions_the_configuration_says_why(bundle: Path) -> None:
    gateway = Gateway(settings=UNHURRIED)
    await Follower(gateway, Surroundings()).apply(config_of(bundle, reason="the bundle failed verification"))
    with pytest.raises(UpstreamUnavailable, match="failed verification"):
        await gateway.ready()


async def test_authentication_follows_and_what_it_remembers_stays(bundle: Path, tmp_path: Path) -> None:
    gateway = Gateway(settings=UNHURRIED)
    follower = Follower(gateway, Surroundings(api_keys=tmp_path))
    keys = {"authentication": {"type": "APIKey", "secretRef": {"name": "keys"}}}
    await follower.apply(config_of(bundle, **keys))
    first = gateway.authenticator
    await follower.apply(config_of(bundle, reason="changed", **keys))
    assert isinstance(first, ApiKeys)
    assert gateway.authenticator is first
    await follower.apply(config_of(bundle))
    assert isinstance(gateway.authenticator, Everybody)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left
