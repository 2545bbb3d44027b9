"""Read the gateway's configuration, or say in one line per mistake what is wrong with it."""

from __future__ import annotations

import ipaddress
import tomllib
from difflib import get_close_matches
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from serving.alerts.settings import Alerts, Retraining
from serving.gpu.settings import Gpu
from serving.model import Device
from serving.section import Section


def address(text: str) -> tuple[str, int]:
    """Split ``127.0.0.1:8000`` or ``[::1]:8000`` into host and port; a `ValueError` says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected ADDRESS:PORT, such as 127.0.0.1:8000, got {text!r}")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ValueError(f"{host!r} is no IP address; 127.0.0.1 is this machine alone") from None
    return host.strip("[]"), int(port)


Address = Annotated[str, Field(examples=["127.0.0.1:8000"])]


class Server(Section):
    """Where the gateway listens. Port 0 takes any free one."""

    http: Address = "127.0.0.1:8000"
    grpc: Address = "127.0.0.1:8001"
    metrics: Address = "127.0.0.1:8002"
    admin: Address = "127.0.0.1:8003"
    """Where traffic is changed; whoever asks needs the token."""
    expose: tuple[str, ...] = ()
    """Addresses beyond loopback that may be bound, each by name; any other is refused."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    drain_s_max: float = Field(10.0, ge=0, le=3600)
    """How long requests in flight may take to finish at shutdown."""

    @model_validator(mode="after")
    def _check(self) -> Server:
        for name in ("http", "grpc", "metrics", "admin"):
            try:
                host, _ = address(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if not ipaddress.ip_address(host).is_loopback and host not in self.expose:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} is reachable from other machines; "
                    f'if that is meant, say expose = ["{host}"]'
                )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class Repository(Section):
    """Which models are served."""

    path: Path = Path("models")
    models: tuple[str, ...] = ()
    """Models to load at the start; empty is all of them."""
    poll_s: float = Field(0.0, ge=0, le=86400)
    """How often the folder is looked at for new versions; 0 never looks again."""
    state: Path = Field(Path("~/.local/state/turnout"), validate_default=True)
    """Where verified copies of the models and other things that outlive a run are kept."""

    @field_validator("path", "state")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser()


class Limits(Section):
    """How much one client may ask of the server."""

    connections_max: int = Field(16384, ge=1, le=1_000_000)
    head_bytes_max: int = Field(16 * 1024, ge=256, le=1 << 20)
    headers_max: int = Field(100, ge=8, le=1000)
    body_bytes_max: int = Field(64 << 20, ge=1, le=1 << 40)
    """Also the limit of a decompressed body."""
    bodies_bytes_max: int = Field(256 << 20, ge=1, le=1 << 44)
    """All request bodies that are in memory at once; beyond it requests are refused with 503."""
    answer_bytes_max: int = Field(256 << 20, ge=1, le=1 << 40)
    chunks_max: int = Field(65536, ge=1, le=1 << 24)
    json_depth_max: int = Field(100, ge=4, le=1000)
    tensors_max: int = Field(256, ge=1, le=65536)
    elements_max: int = Field(1 << 28, ge=1, le=1 << 40)
    """Elements of one tensor."""
    receive_s_max: float = Field(30.0, gt=0, le=3600)
    """From the first byte of a request to its last, however slowly they trickle."""
    idle_s_max: float = Field(75.0, gt=0, le=86400)
    """How long a connection may stay open between requests."""
    send_s_max: float = Field(30.0, gt=0, le=3600)
    """How long a client may take to read an answer that it was sent."""


class Grpc(Section):
    """How gRPC is spoken. What bounds HTTP in `limits` bounds it too, wherever it has the same."""

    engine: Literal["h2", "grpcio", "off"] = "h2"
    streams_max: int = Field(256, ge=1, le=1_000_000)
    """Calls of one connection that are under way at once."""


class SharedMemory(Section):
    """Tensors in memory of this machine that a client and this server both open: POSIX's, or a GPU's."""

    enabled: bool = False
    """Whoever reaches the data port may then read and write all memory with the `prefix`."""
    prefix: str = Field("/turnout-", pattern=r"^/[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """What the name of memory begins with that may be registered."""
    cuda: bool = False
    """Likewise for memory on a GPU: whoever reaches the data port may have any handle opened."""
    regions_max: int = Field(256, ge=1, le=65536)
    bytes_max: int = Field(4 << 30, ge=1, le=1 << 44)
    """All registered regions together."""


class Queue(Section):
    """How many requests may wait, and for how long."""

    requests_max: int = Field(2048, ge=1, le=1_000_000)
    """Requests that wait for one version."""
    timeout_s_max: float = Field(60.0, gt=0, le=86400)
    """The longest deadline that a request can have, and its deadline if it names none."""


class Batching(Section):
    """How requests that arrive together share a run, where a model's own file does not say."""

    rows_max: int = Field(64, ge=1, le=4096)
    """Largest batch of a model that does not say and whose rows were shown to be independent; 1 is off."""


class Engine(Section):
    """How models run."""

    device: Device = Device.AUTO
    threads: int = Field(1, ge=1, le=1024)
    """Threads of one run inside ONNX Runtime."""
    inline_us_max: int = Field(300, ge=0, le=100_000)
    """A version whose run takes no longer executes on the event loop; longer ones have a thread."""


class Admission(Section):
    """What a candidate may use while it is tried, in a process of its own."""

    deadline_s: float = Field(60.0, gt=0, le=3600)
    memory_bytes_max: int = Field(6 << 30, ge=256 << 20, le=1 << 44)
    file_bytes_max: int = Field(8 << 30, ge=1, le=1 << 44)


class Shadow(Section):
    """What a version that only shadows others may use, in a process of its own on each replica."""

    queue_bytes: int = Field(64 << 20, ge=64 << 10, le=1 << 40)
    """Batches that wait for it, their inputs and outputs; what does not fit is dropped."""
    age_s_max: float = Field(10.0, gt=0, le=3600)
    """A batch that has waited for longer is dropped."""
    run_s_max: float = Field(10.0, gt=0, le=3600)
    """Processor time of one run; beyond it the process is ended. By the clock ten times as long."""
    memory_bytes_max: int = Field(6 << 30, ge=16 << 20, le=1 << 44)
    """Memory for the version and its runs."""
    restarts_max: int = Field(5, ge=0, le=1000)
    """How often in a row the process is started anew when it dies."""


class Drift(Section):
    """How inputs and outputs are compared with what was normal for a version."""

    enabled: bool = True
    features_max: int = Field(512, ge=1, le=65536)
    """Elements of a row up to which each is a feature; of longer rows a summary is counted."""
    queue_bytes: int = Field(8 << 20, ge=64 << 10, le=1 << 34)
    """Rows of one tensor that wait to be counted; what does not fit is not counted, and that is."""
    categories_max: int = Field(64, ge=1, le=4096)
    """Categories of a feature that are told apart without a profile."""
    false_alarms: float = Field(0.01, gt=0, lt=1)
    """Probability that a model whose requests stay as they were is said to drift within `horizon_s`."""
    horizon_s: float = Field(86400.0, ge=60, le=1e9)
    psi_min: float = Field(0.1, ge=0, le=100)
    """The least population stability index that is worth an alarm, however certain it is."""
    half_life_s: float = Field(3600.0, ge=1, le=1e9)
    """After how long a row counts half in the window that forgets slowly."""
    window_s: float = Field(3600.0, ge=60, le=1e7)
    """How far back the sliding window reaches."""


class Replay(Section):
    """What was asked lately is kept, to be run through other versions in a process of lowest rank."""

    enabled: bool = True
    bytes_max: int = Field(4 << 20, ge=64 << 10, le=1 << 34)
    """Inputs of one model that are kept on each replica; the newest."""
    total_bytes_max: int = Field(256 << 20, ge=64 << 10, le=1 << 40)
    """Those of all models, which get equal parts of it where there are many."""
    rows_max: int = Field(10_000, ge=1, le=1_000_000)
    """Inputs of one model, however small they are."""
    deadline_s: float = Field(60.0, ge=1, le=3600)
    """How long a replay may take by the clock; others go first."""
    run_s_max: float = Field(10.0, gt=0, le=3600)
    """Processor time of one run, or of opening a version; beyond it the process is ended."""
    memory_bytes_max: int = Field(6 << 30, ge=16 << 20, le=1 << 44)
    """Memory for all versions that take part, and their runs."""


class Deciding(Section):
    """How the decisions of one model are read from its outputs, where that is not as usual."""

    output: str = ""
    """The output that decides; empty is the first with a class, else with scores, else with a score."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """Of a single score: class 1 from here on."""
    error_rate: float = Field(0.0, ge=0, lt=1)
    """How often it may be wrong; 0 takes what its first labels say."""


class Labels(Section):
    """How labels that come later find the answers that they are of, and what is made of them."""

    enabled: bool = True
    rows_max: int = Field(1 << 20, ge=256, le=1 << 28)
    """Answers of one model that are remembered on each replica; the oldest go first."""
    bytes_max: int = Field(256 << 20, ge=1 << 20, le=1 << 40)
    """Memory for the answers of all models."""
    ttl_s: float = Field(604800.0, gt=0, le=1e9)
    """How long an answer is remembered at most."""
    classes_max: int = Field(64, ge=2, le=256)
    """Classes that are told apart; the others are one."""
    baseline_labels: int = Field(1000, ge=50, le=1_000_000)
    """From how many labels of a version it is learned how often it is wrong."""
    false_alarms: float = Field(0.01, gt=0, lt=1)
    """Probability that a version that is wrong as often as before is said to be worse, within the horizon."""
    horizon_labels: int = Field(10_000, ge=100, le=1_000_000_000)
    models: dict[str, Deciding] = Field(default_factory=dict)
    """By model."""


class Metrics(Section):
    """What is counted."""

    enabled: bool = True


class Ray(Section):
    """How the gateway is deployed on Ray Serve."""

    replicas: int = Field(1, ge=1, le=64)
    cpus: float = Field(1.0, ge=0, le=256)
    gpus: float = Field(0.0, ge=0, le=16)
    health_s: float = Field(1.0, gt=0, le=60)
    """How often a replica's health is asked for."""
    address: Literal["local", "auto"] = "local"
    """`local` starts a cluster of its own, `auto` joins the one that runs on this machine."""


class Traffic(Section):
    """How traffic between versions is changed, and what holds while that cannot be done."""

    lost_control: Literal["serve", "fence"] = "serve"
    """What a replica does that lost its control: go on by its last table, or stop when its lease ends."""
    lease_s: float = Field(3.0, ge=0.2, le=60)
    """How long a replica may be without its control before it counts as lost."""
    acknowledge_s_max: float = Field(1.0, ge=0.05, le=60)
    """How long a replica may take to acknowledge a change before it is ended."""
    hold_s_max: float = Field(10.0, ge=0.1, le=60)
    """How long an atomic change may hold requests."""
    kept_bytes_max: int = Field(2 << 30, ge=0, le=1 << 44)
    """Memory for versions that are kept warm beyond those that the model's own policy loads."""
    new_versions: Literal["wait", "take"] = "wait"
    """Whether a version newer than all that ever had traffic takes over by itself, as in Triton."""


class Config(Section):
    """Everything that can be configured; every setting has a default."""

    server: Server = Server()
    repository: Repository = Repository()
    limits: Limits = Limits()
    grpc: Grpc = Grpc()
    shared_memory: SharedMemory = SharedMemory()
    queue: Queue = Queue()
    batching: Batching = Batching()
    engine: Engine = Engine()
    gpu: Gpu = Gpu()
    admission: Admission = Admission()
    shadow: Shadow = Shadow()
    drift: Drift = Drift()
    replay: Replay = Replay()
    labels: Labels = Labels()
    metrics: Metrics = Metrics()
    traffic: Traffic = Traffic()
    alerts: Alerts = Alerts()
    retraining: Retraining = Retraining()
    ray: Ray = Ray()


class ConfigError(Exception):
    """The configuration cannot be used. The message is meant for the person who wrote it."""


def load(path: Path) -> Config:
    """Read `path`.

    Raises
    ------
    ConfigError
        If the file is absent, is not TOML, or holds a wrong or unknown setting.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return parse(document, str(path))


def parse(document: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a configuration already read; `source` begins each line of the error."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_explain(e)}" for e in error.errors())) from None


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, name = (str(part) for part in error["loc"])
        known: Any = Config
        for parent in parents:  # Of settings by name or in a list, such as labels.models, one of them.
            one_of = isinstance(known, GenericAlias)
            known = _each(known) if one_of else known.model_fields[parent].annotation
        near = get_close_matches(name, known.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known.model_fields)}"
        return f"{where}: unknown setting; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict | BaseModel):
        return f"{where}: {message}"
    return f"{where} = {error['input']!r}: {message}"


def _each(several: GenericAlias) -> Any:
    """Return what each value of a mapping or a tuple is."""
    return [kind for kind in several.__args__ if kind is not ...][-1]
