"""Children: what Fovea sets stands after every merge, and what users may set is there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from fovea_api.common import PodTemplate, Resources, RunPolicy
from fovea_api.dataset import Recipe
from fovea_api.run import BundleInput, RunInputs, RunOwner, RunSpec, RunType, frozen_recipe, run_identity, run_name
from fovea_api.trainingjob import TrainingJobSpec
from fovea_api.tuningsweep import TuningSweepSpec
from fovea_operator.kinds.trainingjob.build import child_builder
from fovea_operator.kinds.tuningsweep.build import child_builder as sweep_builder
from fovea_operator.kinds.tuningsweep.build import execution_settings as sweep_execution
from fovea_operator.objects import JOB, RUN, Key, parse
from fovea_operator.runs.build import child_writes
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.demand import requests_of
from fovea_operator.workloads.job import BUILD, build_job
from fovea_operator.workloads.rayjob import RayJobWorkload
from fovea_operator.workloads.work import Work

SETTINGS = Settings()
STORE = StoreConfig("pvc://store/ns", "store-keys", cluster="c-uid", namespace="n-uid", adopt="c-uid/before")
RECIPE = Recipe.model_validate(
    {
        "task": "Detection",
        "sources": [
            {"name": "lab", "uri": "pvc://datasets/bccd", "format": "COCO"},
            {"name": "b", "uri": "s3://b/x", "format": "COCO", "secretRef": {"name": "hospital"}},
        ],
    }
)


def work(store: str = "pvc://store/ns", recipe: Recipe = RECIPE) -> Work:
    owner = RunOwner(kind="Dataset", name="cells")
    identity = run_identity(RunType.DATASET_BUILD, owner, recipe, RunInputs())
    spec = RunSpec(type=RunType.DATASET_BUILD, owner=owner, identity=identity, recipe=recipe.to_dict(), store=store)
    return Work("ns", run_name(identity), 2, spec, "trainer:1", STORE)


EDGE = {"node.kubernetes.io/instance-type": "edge"}
LATENCY: dict[str, Any] = {"resources": {"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}}, "nodeSelector": EDGE}


def measuring(latency: dict[str, Any], policy: dict[str, Any] | None = None, **compute: Any) -> Any:
    """The RayJob of a training whose run measures latency there, whatever the spec has become since."""
    spec = TrainingJobSpec.model_validate(
        {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}, "compute": compute}
        | {"runPolicy": policy or {}}
    )
    recipe = TrainingJobSpec.model_validate(
        {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}, "evaluation": {"latency": latency}}
    ).recipe()
    run = work().spec.model_copy(update={"type": RunType.TRAINING, "recipe": frozen_recipe(recipe)})
    return child_builder(spec, SETTINGS).build(replace(work(), spec=run))


def job(extra: dict[str, Any] | None = None, **policy: Any) -> Any:
    template = PodTemplate.model_validate(extra or {})
    resources = Resources(requests={"cpu": "1"})
    return build_job(work(), BUILD, resources, template, RunPolicy.model_validate(policy), SETTINGS)


def ray_job(policy: dict[str, Any] | None = None, settings: Settings | None = None, **compute: Any) -> Any:
    """That of a training."""
    spec = TrainingJobSpec.model_validate(
        {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}, "compute": compute}
        | {"runPolicy": policy or {}}
    )
    return child_builder(spec, settings or SETTINGS).build(work())


def sweep_spec(parallel: int = 3, queue: str = "team") -> TuningSweepSpec:
    """A sweep whose trials have two workers each."""
    return TuningSweepSpec.model_validate(
        {
            "template": {"spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}},
            "parameters": [{"path": "training.batchSize", "choice": [8, 16]}],
            "objectives": [{"metric": "validation/accuracy", "goal": "Maximize"}],
            "trials": {"parallel": parallel},
            "compute": {"workers": 2, "head": {"resources": {"requests": {"cpu": "250m"}}}},
            "runPolicy": {"queueName": queue} if queue else {},
        }
    )


def pods(manifest: Any) -> list[Any]:
    """All pod templates of a manifest."""
    spec = manifest["spec"]
    if "template" in spec:
        return [spec["template"]]
    cluster = spec["rayClusterSpec"]
    workers = [group["template"] for group in cluster["workerGroupSpecs"]]
    return [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"], *workers]


def test_every_pod_keeps_the_restricted_standard() -> None:
    for manifest in (job(), ray_job(), measuring(LATENCY)):
        for pod in pods(manifest):
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }


def test_a_dead_container_leaves_its_last_words() -> None:
    for manifest in (job(), ray_job()):
        for pod in pods(manifest):
            assert pod["spec"]["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_workers_of_an_elastic_sweep_come_and_go() -> None:
    def built(settings: Settings, parallel: int = 3, queue: str = "team") -> Any:
        spec = sweep_spec(parallel=parallel, queue=queue)
        return sweep_builder(spec, settings).build(work()), sweep_execution(spec, settings)["execution"]

    elastic = Settings(elastic_sweeps=True, ray_idle_seconds=45)
    job, execution = built(elastic)
    cluster = job["spec"]["rayClusterSpec"]
    group = cluster["workerGroupSpecs"][0]
    assert execution.elastic_trials
    assert cluster["enableInTreeAutoscaling"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (2, 2, 6), "from one trial to three"
    assert job["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}
    options = cluster["autoscalerOptions"]
    assert options["idleTimeoutSeconds"] == 45
    assert options["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    head, workers, _ = RayJobWorkload().demand(job)
    assert head.each["cpu"] == pytest.approx(0.25 + 0.05), "KubeRay adds the autoscaler to the head"
    assert workers.count == 2
    unqueued, _ = built(elastic, queue="")
    assert "annotations" not in unqueued["metadata"], "Kueue would gate its pods for ever"
    assert unqueued["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
    for fixed, execution in (built(elastic, parallel=1), built(Settings())):
        cluster = fixed["spec"]["rayClusterSpec"]
        (group,) = cluster["workerGroupSpecs"]
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        assert not {"enableInTreeAutoscaling", "autoscalerOptions"} & set(cluster)
        assert "annotations" not in fixed["metadata"]
        assert not execution.elastic_trials
    digests = {sweep_builder(sweep_spec(), settings).pods_digest for settings in (elastic, Settings())}
    assert len(digests) == 2, "what waits in a queue is made anew"


def test_latency_is_measured_in_a_pod_of_its_own_on_which_nothing_is_trained() -> None:
    extra = {
        "nodeSelector": {"gpu": "h100"},
        "affinity": {"nodeAffinity": {}},
        "runtimeClassName": "nvidia",
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "scratch", "persistentVolumeClaim": {"claimName": "of-another-node"}}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    made = measuring(LATENCY, {"queueName": "team"}, workers=2, podTemplate=extra)
    worker, group = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (worker["replicas"], group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 1, 1, 1)
    assert group["groupName"] == "latency"
    start = group["rayStartParams"]
    assert (start["num-cpus"], start["num-gpus"]) == ("0", "0")
    assert json.loads(json.loads(start["resources"])) == {"latency": 1}
    assert "resources" not in worker["rayStartParams"]
    pod = group["template"]
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["nodeSelector"] == EDGE
    assert not {"affinity", "runtimeClassName", "serviceAccountName"} & set(spec)
    assert spec["automountServiceAccountToken"] is False
    assert (spec["tolerations"][0]["key"], spec["imagePullSecrets"]) == ("edge", [{"name": "registry"}])
    assert (spec["volumes"], container["volumeMounts"]) == ([], []), "what a claim is bound to may be another node"
    assert "envFrom" not in container, "it needs no store"
    assert container["resources"] == LATENCY["resources"]
    assert pod["metadata"]["labels"] == worker["template"]["metadata"]["labels"], "it is counted and told of as others"
    assert worker["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
    asked = {pods.name: (pods.count, pods.each["cpu"]) for pods in RayJobWorkload().demand(made)}
    assert (asked["worker"][0], asked["latency"]) == (2, (1, 2.0))


@pytest.mark.parametrize(
    ("latency", "placed"),
    [
        ({"resources": {"requests": {"cpu": "4"}}}, {"nodeSelector": {"gpu": "h100"}, "runtimeClassName": "nvidia"}),
        (
            {"resources": {"limits": {"nvidia.com/gpu": "1"}}, "nodeSelector": EDGE},
            {"nodeSelector": EDGE, "runtimeClassName": "nvidia"},
        ),
    ],
    ids=["on a node of the run's", "on another one with a GPU"],
)
def test_where_the_pod_that_measures_latency_runs(latency: dict[str, Any], placed: dict[str, Any]) -> None:
    template = {"nodeSelector": {"gpu": "h100"}, "runtimeClassName": "nvidia"}
    _, group = measuring(latency, podTemplate=template)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    spec = group["template"]["spec"]
    assert {name: spec[name] for name in ("nodeSelector", "runtimeClassName")} == placed


def test_what_measures_latency_knows_its_node() -> None:
    for manifest in (measuring({}), measuring(LATENCY)):
        for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            env = {each["name"]: each for each in group["template"]["spec"]["containers"][0]["env"]}
            assert env["FOVEA_NODE_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_latency_on_one_core_of_the_run_takes_no_pod() -> None:
    for latency in ({}, {"resources": {"requests": {"cpu": "1"}}, "nodeSelector": {}}):
        (group,) = measuring(latency)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert group["groupName"] == "worker"


def test_a_sweep_measures_where_its_template_says() -> None:
    template = {"evaluation": {"latency": LATENCY}, "datasetRef": {"name": "cells"}}
    spec = sweep_spec().to_dict()
    spec["template"] = {"spec": {**template, "model": {"architecture": "resnet18"}}}
    recipe = TuningSweepSpec.model_validate(spec).recipe()
    run = work().spec.model_copy(update={"type": RunType.TUNING_SWEEP, "recipe": frozen_recipe(recipe)})
    for settings in (Settings(), Settings(elastic_sweeps=True)):
        made: Any = sweep_builder(sweep_spec(), settings).build(replace(work(), spec=run))
        worker, group = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert (group["groupName"], group["minReplicas"]) == ("latency", 1), "Ray's autoscaler leaves it"
        assert group["template"]["spec"]["nodeSelector"] == EDGE
        assert json.loads(json.loads(worker["rayStartParams"]["resources"])) == {"trial": 1}


def test_names_fit_kuberay() -> None:
    assert len(work().name) <= 47
    assert work().name == f"{work().run}-2"


def test_volumes_only_the_store_is_written() -> None:
    container = pods(job())[0]["spec"]["containers"][0]
    mounts = {each["mountPath"]: each.get("readOnly", False) for each in container["volumeMounts"]}
    assert mounts == {
        "/fovea/work": False,
        "/fovea/pvc/datasets": True,
        "/fovea/pvc/store": False,
        "/fovea/secrets/hospital": True,
    }
    assert container["envFrom"] == [{"secretRef": {"name": "store-keys"}}]


def test_a_build_reads_videos_and_the_model_and_writes_what_is_to_be_reviewed() -> None:
    recipe = Recipe.model_validate(
        {
            "task": "Detection",
            "sources": [{"name": "c", "video": {"uri": "s3://b/hall"}, "secretRef": {"name": "hall-keys"}}],
            "prelabel": {
                "modelDeploymentRef": {"name": "cells"},
                "export": {"uri": "pvc://todo/cells", "format": "CVAT"},
            },
        }
    )
    given = work(recipe=recipe)
    model = BundleInput(digest=f"sha256-{'a' * 64}", artifact="pvc://models/cells")
    spec = given.spec.model_copy(update={"inputs": RunInputs(prelabel=model)})
    resources = Resources(requests={"cpu": "1"})
    made = build_job(replace(given, spec=spec), BUILD, resources, PodTemplate(), RunPolicy(), SETTINGS)
    mounts = pods(made)[0]["spec"]["containers"][0]["volumeMounts"]
    assert {each["mountPath"]: each.get("readOnly", False) for each in mounts} == {
        "/fovea/work": False,
        "/fovea/pvc/models": True,
        "/fovea/pvc/store": False,
        "/fovea/pvc/todo": False,
        "/fovea/secrets/hall-keys": True,
    }


GENERATED = Recipe.model_validate(
    {
        "task": "Detection",
        "sources": [
            {"name": "simulated", "generator": {"image": "sim:1", "args": ["--from", "pvc://w/x"], "format": "COCO"}},
            *RECIPE.to_dict()["sources"],  # type: ignore[misc, list-item]
            {"name": "scraped", "generator": {"image": "scraper:2", "format": "YOLO"}},
        ],
    }
)
USERS = {
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "api", "key": "key"}}}],
    "volumes": [{"name": "maps", "persistentVolumeClaim": {"claimName": "maps"}}],
    "volumeMounts": [{"name": "maps", "mountPath": "/maps", "readOnly": True}],
}


def generating(extra: dict[str, Any] | None = None) -> Any:
    """The pod of a build with two programs."""
    template, resources = PodTemplate.model_validate(extra or {}), Resources(limits={"memory": "2Gi"})
    return pods(build_job(work(recipe=GENERATED), BUILD, resources, template, RunPolicy(), SETTINGS))[0]["spec"]


def test_the_programs_of_sources_run_one_after_another_before_the_build() -> None:
    pod = generating()
    shown = [(each["name"], each["image"], each.get("args")) for each in pod["initContainers"]]
    assert shown == [
        ("generator-simulated", "sim:1", ["--from", "pvc://w/x"]),
        ("generator-scraped", "scraper:2", None),
    ]
    (build,) = pod["containers"]
    assert requests_of(pod) == requests_of({"containers": [build]}), "they ask for no more than the build"
    env = {each["name"]: each["value"] for each in build["env"]}
    read = {each["name"]: each for each in build["volumeMounts"]}
    limits = {each["name"]: each["emptyDir"] for each in pod["volumes"] if "emptyDir" in each}
    for program, source in zip(pod["initContainers"], ("simulated", "scraped"), strict=True):
        (output,) = program["env"]
        (folder,) = (each for each in program["volumeMounts"] if each["mountPath"] == output["value"])
        assert (output["name"], folder["readOnly"]) == ("FOVEA_OUTPUT", False)
        assert output["value"] == f"{env['FOVEA_GENERATED_ROOT']}/{source}", "where the build looks for it"
        assert read[folder["name"]] == folder | {"readOnly": True}
        assert limits[folder["name"]] == {"sizeLimit": SETTINGS.work_dir_size}
        assert program["resources"] == build["resources"]
        for name in ("securityContext", "imagePullPolicy", "terminationMessagePolicy"):
            assert program[name] == build[name]
    claims = {each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
    assert claims == {"datasets", "store"}, "an argument of a program is nothing that the build reads"


def test_a_program_has_what_the_user_gives_and_nothing_of_the_run() -> None:
    pod = generating(USERS)
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert pod["imagePullSecrets"] == USERS["imagePullSecrets"]
    for program in pod["initContainers"]:
        given, output = program["env"]
        assert given["valueFrom"] == {"secretKeyRef": {"name": "api", "key": "key"}}
        assert "envFrom" not in program, "the credentials of the store"
        mounts = {each["mountPath"]: volumes[each["name"]] for each in program["volumeMounts"]}
        token = mounts.pop("/var/run/secrets/kubernetes.io/serviceaccount")
        assert set(token) == {"name", "emptyDir"}, "what is mounted there keeps the token out"
        assert set(mounts) == {"/maps", output["value"]}
    (build,) = pod["containers"]
    mounted = {each["mountPath"] for each in build["volumeMounts"]}
    assert "/var/run/secrets/kubernetes.io/serviceaccount" not in mounted, "it reports by its token"


def test_without_programs_a_pod_has_nothing_of_theirs() -> None:
    pod = pods(job())[0]["spec"]
    assert "initContainers" not in pod
    assert not [each["name"] for each in pod["volumes"] if "generator" in each["name"] or "token" in each["name"]]


def test_the_run_spec_travels_whole() -> None:
    env = {each["name"]: each["value"] for each in pods(job())[0]["spec"]["containers"][0]["env"]}
    assert RunSpec.model_validate(json.loads(env["FOVEA_RUN"])) == work().spec
    assert (env["FOVEA_ATTEMPT"], env["FOVEA_NAMESPACE"], env["FOVEA_RUN_NAME"]) == ("2", "ns", work().run)


def test_a_users_part_is_merged_and_fovea_has_the_last_word() -> None:
    extra = {
        "nodeSelector": {"disk": "ssd"},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "labels": {"team": "a", "app.kubernetes.io/managed-by": "me"},
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    pod = pods(job(extra))[0]
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert pod["spec"]["serviceAccountName"] == "fovea-run"
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "fovea"
    assert {"name": "scratch", "emptyDir": {}} in pod["spec"]["volumes"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy"} in pod["spec"]["containers"][0]["env"]


def test_a_queue_is_named_and_suspend_is_left_to_it() -> None:
    policy = {"queueName": "team-a", "workloadPriorityClassName": "high"}
    for manifest in (job(**policy), ray_job(policy)):
        labels = manifest["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
        assert labels["kueue.x-k8s.io/priority-class"] == "high"
        assert "suspend" not in manifest["spec"]


def test_the_installations_queue_is_that_of_runs_that_name_none() -> None:
    settings = Settings(queue_name="all")
    for policy, queue in ((RunPolicy(), "all"), (RunPolicy(queue_name="team-a"), "team-a")):
        built = build_job(work(), BUILD, Resources(), PodTemplate(), policy, settings)
        elastic = {"minWorkers": 1, "maxWorkers": 4}
        trained = ray_job(policy.to_dict(), settings, workers=2, elastic=elastic)
        for manifest in (built, trained):
            assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue
        assert trained["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2


def test_a_pod_of_a_job_works_once_and_its_end_can_be_read_for_a_while() -> None:
    spec = job(ttlAfterFinished="1s")["spec"]
    assert (spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert spec["ttlSecondsAfterFinished"] == 600
    assert job(ttlAfterFinished="1h")["spec"]["ttlSecondsAfterFinished"] == 3600


def test_the_ray_cluster_works_once_and_goes() -> None:
    spec = ray_job({"ttlAfterFinished": "10m"}, workers=2)["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (0, True, 600)
    assert ray_job()["spec"]["ttlSecondsAfterFinished"] <= 30, "a finished training gives its GPUs back"
    assert job()["spec"]["ttlSecondsAfterFinished"] == 600, "holds nothing, and says why it failed"
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2


def test_elastic_asks_for_the_most_unless_a_queue_admits() -> None:
    elastic = {"workers": 2, "elastic": {"minWorkers": 1, "maxWorkers": 4}}
    group = ray_job(**elastic)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    queued = ray_job({"queueName": "q"}, **elastic)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["replicas"], queued["replicas"]) == (4, 2)


def test_a_ray_head_first_checks_whose_the_store_is_and_asks_for_no_more_because_of_that() -> None:
    _, head, worker = pods(ray_job())
    (check,), (main,) = head["spec"]["initContainers"], head["spec"]["containers"]
    assert check["command"] == ["fovea", "run", "--check-store"]
    own = ("name", "command")
    assert {name: part for name, part in check.items() if name not in own} == {
        name: part for name, part in main.items() if name not in own
    }
    assert check["name"] != main["name"]
    assert requests_of(head["spec"]) == requests_of({"containers": [main]})
    assert "initContainers" not in worker["spec"], "KubeRay's own lets it wait for the head"


def test_a_pod_knows_whom_its_store_must_belong_to() -> None:
    for pod in (pods(job())[0], pods(ray_job())[1]):
        env = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
        owner = (env["FOVEA_CLUSTER_UID"], env["FOVEA_NAMESPACE_UID"], env["FOVEA_ADOPT"])
        assert owner == ("c-uid", "n-uid", "c-uid/before")


def test_a_spec_that_no_variable_takes_lies_in_a_config_map_that_the_pod_knows_by_digest() -> None:
    classes = tuple(f"class number {number:05} of very many" for number in range(6000))
    large = work(recipe=RECIPE.model_copy(update={"classes": classes}))
    run = Key(RUN, "ns", large.run)
    manifest = build_job(large, BUILD, Resources(), PodTemplate(), RunPolicy(), SETTINGS)
    writes = {write.key.kind.name: write for write in child_writes(run, JOB, large, manifest, SETTINGS)}
    assert list(writes)[-2:] == ["ConfigMap", "Job"], "the pod mounts it"
    assert writes["ConfigMap"].controller == run
    held: Any = writes["ConfigMap"].manifest
    text = gzip.decompress(base64.b64decode(held["binaryData"]["spec.json.gz"]))
    assert RunSpec.model_validate_json(text) == large.spec
    assert len(text) > 200 << 10
    assert held["immutable"] is True

    (pod,) = pods(manifest)
    (container,) = pod["spec"]["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["FOVEA_RUN_SHA256"] == hashlib.sha256(text).hexdigest()
    mount = next(each for each in container["volumeMounts"] if env["FOVEA_RUN_FILE"].startswith(each["mountPath"]))
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == mount["name"])
    assert volume["configMap"]["name"] == held["metadata"]["name"]
    assert all(len(f"{name}={value}") < 128 << 10 for name, value in env.items())


def test_a_spec_that_fits_needs_no_config_map() -> None:
    writes = child_writes(Key(RUN, "ns", "r"), JOB, work(), job(), SETTINGS)
    assert [write.key.kind.name for write in writes] == ["ServiceAccount", "RoleBinding", "Job"]


def test_what_kubernetes_defines_of_a_pod_is_kept_by_a_tolerant_reader() -> None:
    pod = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
        "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
    }
    read = parse(PodTemplate, {**pod, "fieldOfALaterVersion": 1}).to_dict()
    assert {name: read[name] for name in pod} == pod
    assert "fieldOfALaterVersion" not in read
