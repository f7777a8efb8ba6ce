"""The manifests for Kubernetes: read with the types they have to be of; what meets must agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.support.containers import (
    CONFIGURATION_DIRECTORY,
    DATA_DIRECTORY,
    DEPLOY,
    SETTINGS,
    TIDY_SECONDS,
    Strict,
    configuration,
    only,
)
from tests.support.process import run


class Resource(Strict, rename="camel", kw_only=True):
    """A part of a manifest."""


class Metadata(Resource, kw_only=True):
    """What it is called."""

    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Selector(Resource, kw_only=True):
    """Which pods or namespaces."""

    match_labels: dict[str, str]


class Get(Resource, kw_only=True):
    """An HTTP request of a probe."""

    path: str
    port: str


class Probe(Resource, kw_only=True):
    """A probe."""

    http_get: Get
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int


class ContainerPort(Resource, kw_only=True):
    """A named port."""

    name: str
    container_port: int


class Mount(Resource, kw_only=True):
    """Where a volume is mounted."""

    name: str
    mount_path: str
    read_only: bool = False


class Resources(Resource, kw_only=True):
    """What a container may use."""

    requests: dict[str, str]
    limits: dict[str, str] = msgspec.field(default_factory=dict)


class Capabilities(Resource, kw_only=True):
    """Privileges."""

    drop: list[str]


class ContainerSecurity(Resource, kw_only=True):
    """What a container may do."""

    allow_privilege_escalation: bool
    read_only_root_filesystem: bool
    capabilities: Capabilities


class Container(Resource, kw_only=True):
    """A container."""

    name: str
    image: str
    ports: list[ContainerPort]
    startup_probe: Probe
    liveness_probe: Probe
    readiness_probe: Probe
    resources: Resources
    security_context: ContainerSecurity
    volume_mounts: list[Mount]


class Named(Resource, kw_only=True):
    """A ConfigMap."""

    name: str


class SecretVolume(Resource, kw_only=True):
    """A Secret."""

    secret_name: str
    default_mode: int


class Empty(Resource, kw_only=True):
    """Scratch space."""

    size_limit: str


class Volume(Resource, kw_only=True):
    """A volume of one of these kinds."""

    name: str
    config_map: Named | None = None
    secret: SecretVolume | None = None
    empty_dir: Empty | None = None


class Seccomp(Resource, kw_only=True):
    """Which system calls."""

    type: str


class PodSecurity(Resource, kw_only=True):
    """As whom a pod runs."""

    run_as_non_root: bool
    run_as_user: int
    run_as_group: int
    fs_group: int
    fs_group_change_policy: str
    seccomp_profile: Seccomp


class Spread(Resource, kw_only=True):
    """How pods are spread."""

    max_skew: int
    topology_key: str
    when_unsatisfiable: str
    label_selector: Selector


class Dns(Resource, kw_only=True):
    """How names are found."""

    searches: list[str]


class PodSpec(Resource, kw_only=True):
    """A pod."""

    dns_config: Dns

    automount_service_account_token: bool
    enable_service_links: bool
    termination_grace_period_seconds: int
    security_context: PodSecurity
    topology_spread_constraints: list[Spread]
    containers: list[Container]
    volumes: list[Volume]


class PodMetadata(Resource, kw_only=True):
    """Labels of a pod."""

    labels: dict[str, str]
    annotations: dict[str, str]


class Template(Resource, kw_only=True):
    """What pods are made of."""

    metadata: PodMetadata
    spec: PodSpec


class Claim(Resource, kw_only=True):
    """What volume is asked for."""

    access_modes: list[str]
    resources: Resources


class ClaimTemplate(Resource, kw_only=True):
    """A volume of each replica."""

    metadata: Named
    spec: Claim


class Update(Resource, kw_only=True):
    """How pods are replaced."""

    type: str


class Retention(Resource, kw_only=True):
    """What becomes of volumes."""

    when_deleted: str
    when_scaled: str


class StatefulSetSpec(Resource, kw_only=True):
    """Replicas."""

    service_name: str
    replicas: int
    pod_management_policy: str
    update_strategy: Update
    min_ready_seconds: int
    selector: Selector
    template: Template
    persistent_volume_claim_retention_policy: Retention
    volume_claim_templates: list[ClaimTemplate]


class ServicePort(Resource, kw_only=True):
    """A port of a service."""

    name: str
    port: int
    target_port: str


class ServiceSpec(Resource, kw_only=True):
    """An address of pods."""

    selector: dict[str, str]
    ports: list[ServicePort]
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    publish_not_ready_addresses: bool = False
    external_traffic_policy: str = ""
    session_affinity: str = "None"


class Block(Resource, kw_only=True):
    """A network."""

    cidr: str


class Peer(Resource, kw_only=True):
    """Who may be reached, or reach us."""

    ip_block: Block | None = None
    namespace_selector: Selector | None = None
    pod_selector: Selector | None = None


class PolicyPort(Resource, kw_only=True):
    """A port, by number or name."""

    protocol: str
    port: int | str


class Inward(Resource, kw_only=True):
    """Who may come, to which ports."""

    from_: list[Peer] = msgspec.field(name="from")
    ports: list[PolicyPort]


class Outward(Resource, kw_only=True):
    """Whom we may reach, at which ports."""

    to: list[Peer]
    ports: list[PolicyPort]


class PolicySpec(Resource, kw_only=True):
    """A network policy."""

    pod_selector: Selector
    policy_types: list[str]
    ingress: list[Inward]
    egress: list[Outward]


class BudgetSpec(Resource, kw_only=True):
    """How many may be missing."""

    max_unavailable: int
    selector: Selector


KINDS = {
    ("apps/v1", "StatefulSet"): StatefulSetSpec,
    ("v1", "Service"): ServiceSpec,
    ("v1", "Namespace"): None,
    ("networking.k8s.io/v1", "NetworkPolicy"): PolicySpec,
    ("policy/v1", "PodDisruptionBudget"): BudgetSpec,
}
KUBERNETES = DEPLOY / "kubernetes"
KUBERNETES_CONFIGURATION = KUBERNETES / "configuration"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())


def manifests() -> dict[tuple[str, str], Any]:
    """{(kind, name): its typed spec} of all that the kustomization names."""
    found = {}
    for name in KUSTOMIZATION["resources"]:
        for content in yaml.safe_load_all((KUBERNETES / name).read_text()):
            kind = KINDS[content.pop("apiVersion"), (word := content.pop("kind"))]
            metadata = msgspec.convert(content.pop("metadata"), Metadata)
            spec = content.pop("spec", None)
            assert content == {}, f"{name}: {list(content)}"
            found[word, metadata.name] = msgspec.convert(spec, kind) if kind is not None else metadata
    return found


MANIFESTS = manifests()
SET: StatefulSetSpec = MANIFESTS["StatefulSet", "dicom-router"]
POD = SET.template.spec
LABELS = SET.selector.match_labels


def test_the_kustomization_names_every_file() -> None:
    unnamed = {"kustomization.yaml", "prometheus-scrape.yaml"}
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    named = {*KUSTOMIZATION["resources"], *generated["files"]}
    assert {str(path.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("*.yaml")} == named | unnamed
    assert KUSTOMIZATION["namespace"] == "dicom-router"
    assert ("Namespace", KUSTOMIZATION["namespace"]) in MANIFESTS
    # A name that changed with the contents would restart every replica for each rule.
    assert generated["options"] == {"disableNameSuffixHash": True}
    (volume,) = [volume.config_map for volume in POD.volumes if volume.config_map is not None]
    assert volume.name == generated["name"]
    (container,) = POD.containers
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [container.image]


def test_pods_are_what_the_image_and_the_configuration_need() -> None:
    rules = configuration(KUBERNETES_CONFIGURATION)
    (container,) = POD.containers
    ports = {port.name: port.container_port for port in container.ports}
    assert rules.router.hl7 is not None
    assert ports == {
        "dicom": rules.router.listen_port,
        "http": rules.router.http_port,
        "hl7": rules.router.hl7.port,
    }
    assert {rules.router.listen_host, rules.router.http_host, rules.router.hl7.host} == {"0.0.0.0"}
    paths = {mount.name: mount.mount_path for mount in container.volume_mounts}
    assert paths["configuration"] == CONFIGURATION_DIRECTORY
    assert paths["data"] == DATA_DIRECTORY
    assert paths["tmp"] == "/tmp"
    text = (KUBERNETES_CONFIGURATION / "site.yaml").read_text()
    assert {str(Path(found).parent) for found in re.findall(r"\{file: ([^}]+)\}", text)} == {paths["secrets"]}
    volumes = {volume.name for volume in POD.volumes} | {claim.metadata.name for claim in SET.volume_claim_templates}
    assert set(paths) == volumes
    user, _, group = only("USER").partition(":")
    security = POD.security_context
    assert (str(security.run_as_user), str(security.run_as_group), str(security.fs_group)) == (user, group, group)
    assert POD.termination_grace_period_seconds >= rules.router.leave + rules.router.drain + TIDY_SECONDS


def test_pods_run_under_the_restricted_pod_security_standard() -> None:
    (container,) = POD.containers
    assert POD.security_context.run_as_non_root
    assert POD.security_context.seccomp_profile.type == "RuntimeDefault"
    assert not container.security_context.allow_privilege_escalation
    assert container.security_context.read_only_root_filesystem
    assert container.security_context.capabilities.drop == ["ALL"]
    assert not POD.automount_service_account_token
    labels = MANIFESTS["Namespace", "dicom-router"].labels
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    (secret,) = [volume.secret for volume in POD.volumes if volume.secret is not None]
    assert secret.default_mode == 0o440  # by the group, which is fsGroup


def test_probes_ask_what_the_router_answers() -> None:
    (container,) = POD.containers
    names = {port.name for port in container.ports}
    asked = {
        "startup": container.startup_probe,
        "liveness": container.liveness_probe,
        "readiness": container.readiness_probe,
    }
    assert {name: probe.http_get.path for name, probe in asked.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe.http_get.port for probe in asked.values()} <= names
    ready = container.readiness_probe
    assert ready.period_seconds * ready.failure_threshold < configuration(KUBERNETES_CONFIGURATION).router.leave


def test_services_budget_and_policy_are_about_these_pods() -> None:
    assert LABELS.items() <= SET.template.metadata.labels.items()
    (container,) = POD.containers
    ports = {port.name: port.container_port for port in container.ports}
    services = {name: spec for (kind, name), spec in MANIFESTS.items() if kind == "Service"}
    for spec in services.values():
        assert spec.selector == LABELS
        for port in spec.ports:
            assert ports[port.target_port] == port.port
    headless = services[SET.service_name]
    assert POD.dns_config.searches == [f"{SET.service_name}.{KUSTOMIZATION['namespace']}.svc.cluster.local"]
    assert headless.cluster_ip == "None" and headless.publish_not_ready_addresses
    outside = services["dicom-router"]
    assert (outside.type, outside.external_traffic_policy) == ("LoadBalancer", "Local")
    assert {port.name for port in outside.ports} == {"dicom", "hl7"}
    assert services["dicom-router-http"].session_affinity == "ClientIP"
    assert MANIFESTS["PodDisruptionBudget", "dicom-router"].selector.match_labels == LABELS
    assert MANIFESTS["PodDisruptionBudget", "dicom-router"].max_unavailable < SET.replicas
    policy: PolicySpec = MANIFESTS["NetworkPolicy", "dicom-router"]
    assert policy.pod_selector.match_labels == LABELS
    assert {str(port.port) for rule in policy.ingress for port in rule.ports} == set(ports)
    ours = [rule for rule in policy.ingress for peer in rule.from_ if peer.pod_selector is not None]
    assert [port.port for rule in ours for port in rule.ports] == ["http"]
    outward = {str(port.port) for rule in policy.egress for port in rule.ports}
    assert outward == {"53", "104", "11112", "4242", "5432", str(SETTINGS.http_port)}
    node = configuration(KUBERNETES_CONFIGURATION).nodes["archive"]
    assert str(node.port) in outward


def test_prometheus_takes_the_scrape_job_of_the_cluster(tmp_path: Path) -> None:
    jobs = yaml.safe_load((KUBERNETES / "prometheus-scrape.yaml").read_text())
    (job,) = jobs
    # Debian's Prometheus is built without Kubernetes: it checks all but where the targets come from.
    without = {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump({"scrape_configs": [without]}))
    run(["promtool", "check", "config", "--syntax-only", path])
    assert job["job_name"] == "dicom-router"
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [KUSTOMIZATION["namespace"]]
    assert job["relabel_configs"][0]["regex"] == SET.service_name
    annotations = SET.template.metadata.annotations
    assert annotations["prometheus.io/port"] == str(SETTINGS.http_port)
